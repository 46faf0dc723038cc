"""The inference core that service and batch share: bytes of an image in, labels with scores out.

`model.Model` is an artifact opened for use. It needs numpy, Pillow and one engine; never torch or bentoml.
Nothing is imported here, so that commands can import `classifier.types` and `classifier.errors` cheaply.
"""
