"""Pushes and pulls through a proxy that breaks one request after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from classifier.artifact import CONFIG, MODEL
from classifier.errors import DamagedArtifact, RegistryDenied, RegistryUnreachable, TandemError
from registry import LocalRegistry, Reference, pull, push
from tests.registry.artifacts import make_files
from tests.registry.servers import Proxy, needs_registry

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_registry, pytest.mark.usefixtures("impatient")]

HEALED = (
    *("500", "503", "429", "drop", "hang", "slow"),
    *("truncated", "shortened", "flipped", "wrong digest header"),
)
NOT_HEALED = ("401", "404")
FAULTS = (*HEALED, *NOT_HEALED)


def few_files(graph: bytes) -> dict[str, bytes]:
    """Return the two files that every artifact needs."""
    files = make_files(graph)
    return {MODEL: files[MODEL], CONFIG: files[CONFIG]}


def assert_one_sentence(error: TandemError) -> None:
    """Fail unless the message is one line that names what to do."""
    message = str(error)
    assert "\n" not in message
    assert ": " in message
    assert len(message) < 600


def assert_whole(registry: LocalRegistry) -> None:
    """Fail unless every model that the registry names is whole."""
    for model in registry.models():
        assert model.verify() == []


def try_to(operation: object, *args: object) -> TandemError | None:
    try:
        operation(*args)  # type: ignore[operator]
    except TandemError as error:
        assert_one_sentence(error)
        return error
    return None


def repository(proxy: Proxy, remote: str, name: str = "") -> str:
    """Return the reference of `remote`, through the proxy."""
    return f"{proxy.host}/{remote.partition('/')[2]}{name}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pull_survives_a_fault_at_each_request(
    registry: LocalRegistry, proxy: Proxy, remote: str, tmp_path: Path, fault: str
) -> None:
    """Transient faults are retried; others give one sentence, leave nothing partial, and the next pull works."""
    pushed = push(registry.add("digits", few_files(b"graph" * 5000)).artifact.reference, remote, registry)
    reference = Reference.parse(repository(proxy, remote, ":1"))
    pull(reference, LocalRegistry(tmp_path / "0"))
    requests = len(proxy.requests)
    assert requests == 6  # the manifest, its referrers by both ways, and three blobs
    for number in range(1, requests + 1):
        here = LocalRegistry(tmp_path / str(number))
        proxy.inject(fault, lambda seen, _, number=number: seen == number)
        error = try_to(pull, reference, here)
        assert len(proxy.requests) >= number
        assert_whole(here)
        if fault in HEALED:
            assert error is None
            assert len(proxy.requests) <= requests + 3
        proxy.inject("", lambda seen, _: False)
        assert pull(reference, here).digest == pushed.digest
        assert_whole(here)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_survives_a_fault_at_each_request(
    registry: LocalRegistry, proxy: Proxy, remote: str, tmp_path: Path, fault: str
) -> None:
    """Transient faults are retried; others give one sentence, and the model is missing or whole."""
    registry.add("digits", few_files(b"measured"))
    push("digits:1", repository(proxy, remote, "-measured:1"), registry)
    requests = len(proxy.requests)
    assert requests == 1 + 3 * 3 + 1  # the tag; look, start and send for each blob; the manifest
    for number in range(1, requests + 1):
        artifact = registry.add("digits", few_files(b"graph %d" % number)).artifact
        target = repository(proxy, remote, f"-{number}:1")
        proxy.inject(fault, lambda seen, _, number=number: seen == number)
        error = try_to(push, artifact.reference, target, registry)
        assert len(proxy.requests) >= number
        assert error is None or fault in NOT_HEALED
        proxy.inject("", lambda seen, _: False)
        direct = Reference.parse(f"{remote}-{number}:1")
        if error is not None:
            push(artifact.reference, target, registry)
        assert pull(direct, LocalRegistry(tmp_path / str(number))).digest == artifact.digest


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("500", RegistryUnreachable, "has a temporary failure (HTTP 500)"),
        ("429", RegistryUnreachable, "asks to come back later"),
        ("401", RegistryDenied, "without saying how to log in"),
        ("drop", RegistryUnreachable, "broke"),
        ("hang", RegistryUnreachable, "no answer in time"),
        ("truncated", RegistryUnreachable, "broke"),
        ("shortened", RegistryUnreachable, "bytes of sha256:"),
        ("flipped", DamagedArtifact, "arrived as sha256:"),
        ("404", DamagedArtifact, "has no blob"),
    ],
)
def test_a_fault_that_stays_ends_after_four_tries(
    registry: LocalRegistry,
    proxy: Proxy,
    remote: str,
    tmp_path: Path,
    fault: str,
    error: type[Exception],
    sentence: str,
) -> None:
    """One sentence names host or digest, and the local registry has no such model."""
    graph = b"graph" * 5000
    registry.add("digits", make_files(graph))
    push("digits:1", remote, registry)
    digest = registry.resolve("digits:1").files["model.onnx"].digest
    proxy.inject(fault, lambda _, request: request.path.endswith(digest))
    here = LocalRegistry(tmp_path / "here")
    with pytest.raises(error) as caught:
        pull(Reference.parse(repository(proxy, remote, ":1")), here)
    assert sentence in str(caught.value)
    assert_one_sentence(caught.value)
    tries = [request for request in proxy.requests if request.path.endswith(digest)]
    assert len(tries) == (1 if fault in NOT_HEALED else 4)
    assert here.models() == []


def test_a_broken_download_goes_on_where_it_broke(
    registry: LocalRegistry, proxy: Proxy, remote: str, tmp_path: Path
) -> None:
    """The second request asks for the missing bytes only."""
    registry.add("digits", make_files(b"x" * 1_000_000))
    push("digits:1", remote, registry)
    digest = registry.resolve("digits:1").files["model.onnx"].digest
    first: list[int] = []
    proxy.inject(
        "truncated", lambda seen, request: request.path.endswith(digest) and not first and not first.append(seen)
    )
    copy = pull(Reference.parse(repository(proxy, remote, ":1")), LocalRegistry(tmp_path / "here"))
    assert copy.verify() == []
    ranges = [request.headers.get("Range") for request in proxy.requests if request.path.endswith(digest)]
    assert ranges == [None, "bytes=500000-"]
