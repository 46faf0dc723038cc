"""The service's own metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.serving import Server


def test_model_info_names_what_runs(server: Server, image: bytes) -> None:
    """The metric names the same engine and precision as the answers: `auto` may have chosen them."""
    engine = httpx.post(f"{server.url}/classify", content=image).json()["engine"]
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    [info] = [line for line in lines if line.startswith("tandem_model_info{")]
    for label in (f'engine="{engine["name"]}"', f'precision="{engine["precision"]}"', 'model="digits@sha256:'):
        assert label in info
    assert info.endswith("} 1.0")
