"""Fixtures of the service's tests that the system's tests share."""

from tests.service.conftest import image, image_file, model, serve

__all__ = ["image", "image_file", "model", "serve"]
