"""Every command that takes a model takes a remote reference, and fetches the model once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry, push
from tests.registry.servers import Proxy, needs_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

COMMANDS = {
    "classify": ["classify", "{image}", "--model", "{model}"],
    "batch": ["batch", "{image}", "--model", "{model}", "--output", "{tmp}/out-{count}"],
    "selftest": ["selftest", "{model}"],
    "evaluate": ["evaluate", "{model}", "{images}"],
}


@needs_registry
@pytest.mark.parametrize("command", COMMANDS)
def test_a_remote_reference_is_fetched_once(
    command: str, digits_home: Path, proxy: Proxy, remote: str, tandem: Tandem, test_folder: Path, tmp_path: Path
) -> None:
    """By version: the first call downloads, the second needs no registry."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    pushed = push("digits:1", target, LocalRegistry(digits_home / "registry"))
    home = {"TANDEM_HOME": str(tmp_path / "home")}
    model, image = f"{target}:1", min(test_folder.rglob("*.png"))
    requests = []
    for count in range(2):
        proxy.requests.clear()
        arguments = [
            part.format(model=model, image=image, images=test_folder, tmp=tmp_path, count=count)
            for part in COMMANDS[command]
        ]
        tandem(*arguments, env=home)
        requests.append(len(proxy.requests))
    assert requests[0] > 0
    assert requests[1] == 0
    assert LocalRegistry(tmp_path / "home" / "registry").resolve(model).digest == pushed.digest
