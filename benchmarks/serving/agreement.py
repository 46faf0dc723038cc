"""Check that all servers give the same answers before their speed is compared."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.serving.servers import TANDEM, ask

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.serving.servers import Server

TOLERANCE = 1e-4
"""Of a score. Batching and threads change the order of sums, and so the last bits."""
IMAGES = 12


def check_agreement(servers: dict[str, Server], images: list[Path]) -> dict[str, float]:
    """Return the largest distance of each peer's scores from this service's, after checking it and the top labels."""
    expected = [_classify(servers[TANDEM], image) for image in images[:IMAGES]]
    distances = {}
    for name, server in servers.items():
        answers = [_classify(server, image) for image in images[:IMAGES]]
        distances[name] = 0.0
        for image, answer, right in zip(images, answers, expected, strict=False):
            scores = {each["label"]: each["score"] for each in answer}
            distance = max(abs(scores.get(each["label"], each["score"]) - each["score"]) for each in right)
            distances[name] = max(distances[name], distance)
            if answer[0]["label"] != right[0]["label"] or distance > TOLERANCE:
                sys.exit(f"{name} answers {answer} for {image}, this service {right}")
    return distances


def _classify(server: Server, image: Path) -> list[dict[str, Any]]:
    boundary = "agreement"
    disposition = f'Content-Disposition: form-data; name="{server.contender.form_field}"; filename="{image.name}"'
    start = f"--{boundary}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    body = start + image.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    content_type = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, answer = ask(server, "POST", server.contender.path, body, **content_type)
    if status != 200:
        sys.exit(f"{server.contender.name} answers {status} for {image}: {answer[:500]!r}")
    found = json.loads(answer)
    [found] = found if isinstance(found, list) else [found]  # BentoML answers a batch of one
    predictions: list[dict[str, Any]] = found["predictions"]
    return predictions
