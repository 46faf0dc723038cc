"""What is stored of an entry: the columns of `service.log.schema`."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from service.log.entry import Truth

if TYPE_CHECKING:
    from service.log.entry import LogEntry


class Row(NamedTuple):
    """A row for one of the two tables, by column."""

    is_prediction: bool
    values: dict[str, Any]


def row_of(entry: LogEntry | Truth) -> Row:
    """Return the row of an entry. A prediction gets its key, so make it once."""
    if isinstance(entry, Truth):
        names = ("time_utc", "request_id", "image_index", "label")
        return Row(is_prediction=False, values={name: getattr(entry, name) for name in names})
    engine = entry.engine
    best = entry.top_k[0] if entry.top_k else None
    values = {
        "id": _new_id(),
        "time_utc": entry.time_utc,
        "request_id": entry.request_id,
        "image_index": entry.image_index,
        "sha256": entry.sha256,
        "bytes": entry.bytes,
        "status": entry.status,
        "reason": entry.reason,
        "label": best.label if best else None,
        "score": best.score if best else None,
        "top_k": [{"label": each.label, "score": each.score} for each in entry.top_k] if best else None,
        "model": entry.model,
        "digest": entry.digest,
        "engine": f"{engine.name} {engine.version}",
        "device": engine.device,
        "instruction_set": engine.instruction_set,
        "precision": engine.precision,
        "queue_ms": entry.queue_ms,
        "decode_ms": entry.decode_ms,
        "inference_ms": entry.inference_ms,
        "total_ms": entry.total_ms,
        "client": entry.client,
        "cached": entry.cached,
    }
    return Row(is_prediction=True, values=values)


def _new_id() -> uuid.UUID:
    """Return a UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random ones."""
    bits = int.from_bytes(os.urandom(10), "big") | time.time_ns() // 1_000_000 << 80
    return uuid.UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
