"""A BentoML service that does nothing: `bentoml serve empty_bento:Empty`. Its start is the least that any pays."""

from __future__ import annotations

import bentoml


@bentoml.service(workers=1)
class Empty:
    """Does nothing."""

    @bentoml.api
    def hello(self, name: str = "world") -> str:
        """Greet."""
        return f"Hello, {name}"
