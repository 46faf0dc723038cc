"""The fixtures of the bulk run: its model, a few images, and a real service."""

from __future__ import annotations

from tests.batch.conftest import few, image, model, service_url

__all__ = ["few", "image", "model", "service_url"]
