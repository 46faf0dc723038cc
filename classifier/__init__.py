"""The inference core that service and batch share: bytes of an image in, labels with scores out.

`model.Model` is an artifact opened for use. It imports numpy, Pillow and one engine; never torch, never bentoml.
Nothing is imported here, so that `classifier.types` and `classifier.errors` stay cheap for the commands.
"""
