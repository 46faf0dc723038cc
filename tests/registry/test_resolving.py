"""References to local models: which version each one means, and the error for an unknown one."""

from __future__ import annotations

import pytest

from classifier.errors import ModelNotFound, ModelNotNamed
from registry import LocalRegistry, resolving
from tests.registry.artifacts import make_files

OTHER_DIGEST = "sha256:" + "0" * 64


def test_a_bare_name_means_production_else_the_highest_version(stocked: LocalRegistry) -> None:
    """The highest version, by number, until an alias says which one is in production."""
    for graph in range(3, 10):
        stocked.add("digits", make_files(str(graph)))
    assert stocked.resolve("digits").version == 10
    stocked.tag("digits:2", "production")
    assert stocked.resolve("digits").version == 2


def test_every_form_of_reference_resolves(stocked: LocalRegistry) -> None:
    """A version by number, alias or digest, and by number or alias with the expected digest."""
    digest = stocked.resolve("digits:1").digest
    for reference in ("digits:1", "digits:candidate", f"digits@{digest}", f"digits:1@{digest}",
                      f"digits:candidate@{digest}"):  # fmt: skip
        artifact = stocked.resolve(reference)
        assert (artifact.version, artifact.digest, artifact.aliases) == (1, digest, ("candidate",))


def test_no_reference_means_the_only_model(stocked: LocalRegistry) -> None:
    """The only model needs no name; of two, the error lists both."""
    assert stocked.resolve(None).version == 3
    stocked.add("fashion", make_files())
    with pytest.raises(ModelNotNamed, match=r"several models \(digits, fashion\).*--model or TANDEM_MODEL"):
        stocked.resolve(None)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digits:4", r"'digits:4' is not in the registry .*'digits' has 1, 2, 3, candidate; 'tandem models list'"),
        ("digits:production", "'digits' has 1, 2, 3, candidate"),
        ("digits:03", "'digits' has 1"),
        ("digit", "did you mean 'digits'"),
        ("digist:2", "did you mean 'digits'"),
        ("flowers", "'flowers' is not in the registry .*: 'tandem models list'"),
        (f"digits@{OTHER_DIGEST}", "is not in the registry"),
        (f"digits:2@{OTHER_DIGEST}", f"'digits:2' in the registry .* is sha256:[0-9a-f]{{64}}, not {OTHER_DIGEST}"),
    ],
)
def test_an_unknown_reference_says_what_there_is(stocked: LocalRegistry, reference: str, message: str) -> None:
    """The error has the next step: the versions, the name that was meant, or the digest found."""
    with pytest.raises(ModelNotFound, match=message):
        stocked.resolve(reference)


@pytest.mark.parametrize("reference", [None, "digits", "digits:3"])
def test_an_empty_registry_says_how_to_fill_it(
    registry: LocalRegistry, reference: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first error that a newcomer meets has the two commands that make a model."""
    monkeypatch.setattr(resolving, "find_spec", lambda name: name)
    with pytest.raises(ModelNotFound, match=r"holds no model yet; 'tandem train digits .*'tandem export"):
        registry.resolve(reference)


@pytest.mark.parametrize("reference", [None, "digits", "digits:3"])
def test_an_empty_registry_where_nothing_can_be_trained(
    registry: LocalRegistry, reference: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a wrong mount: the error says what to mount, and where."""
    monkeypatch.setattr(resolving, "find_spec", lambda name: None)
    home = registry.root.parent
    with pytest.raises(ModelNotFound, match=f"holds no model yet; mount a TANDEM_HOME that holds one at {home}, or"):
        registry.resolve(reference)


def test_a_registry_that_is_mounted_too_high(stocked: LocalRegistry) -> None:
    """The error says where it belongs."""
    wrong = LocalRegistry(stocked.root / "registry")
    with pytest.raises(ModelNotFound, match=f"but {stocked.root} is itself a registry: mount it at {wrong.root}"):
        wrong.resolve("digits")


def test_a_remote_reference_without_a_copy_says_how_to_get_one(registry: LocalRegistry) -> None:
    """The local registry only knows copies, and makes no request."""
    with pytest.raises(ModelNotFound, match=r"'tandem models pull ghcr.io/acme/digits:3' fetches it"):
        registry.resolve("ghcr.io/acme/digits:3")
