"""The ways in which a CPU may run the digits, for tests of what holds in all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from classifier.engines import Engine, Tuning

WAYS = ("fp32 onnxruntime", "int8 onnxruntime", "fp32 openvino", "bf16 openvino", "int8 openvino")


class OpenWay(Protocol):
    """Opens the digits in one of the ways in which a CPU runs them."""

    def __call__(
        self,
        way: str,
        *,
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
    ) -> Engine:
        """Return the engine of a way, as `int8 openvino`."""
