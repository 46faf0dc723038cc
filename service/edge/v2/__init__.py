"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensors and classification.

https://github.com/kserve/open-inference-protocol and docs/protocol of triton-inference-server/server.
"""
