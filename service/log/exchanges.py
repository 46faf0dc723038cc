"""What the prediction log keeps of a request: an entry for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.log.entry import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from classifier.model import Model
    from service.exchange import Exchange


def entries_of(exchange: Exchange, model: Model, *, time_utc: datetime, elapsed_s: float) -> Iterator[LogEntry]:
    """Yield the entries of a request that arrived at `time_utc` and was answered in `elapsed_s`."""
    for outcome in exchange.outcomes:
        scored = outcome.scored
        computed = scored if scored is not None and scored.cached is None else None
        yield LogEntry(
            time_utc=time_utc,
            request_id=exchange.request_id,
            image_index=outcome.index,
            sha256=None if outcome.sha256 is None else outcome.sha256.hex(),
            bytes=outcome.size_bytes,
            model=model.identity,
            digest=model.digest,
            engine=model.engine.info,
            top_k=outcome.predictions,
            queue_ms=None if computed is None else computed.queue_s * 1000,
            decode_ms=None if computed is None else computed.decode_s * 1000,
            inference_ms=None if computed is None else computed.inference_s * 1000,
            total_ms=elapsed_s * 1000,
            status=outcome.status,
            reason=outcome.reason,
            client=exchange.client,
            cached=scored is not None and scored.cached is not None,
        )
