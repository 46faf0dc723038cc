"""Credentials as Docker keeps them: in its config, or with a helper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from classifier.errors import RegistryDenied
from registry.remote.credentials import Credentials, find_credentials
from tests.registry.servers import PASSWORD, USER, log_in

if TYPE_CHECKING:
    from pathlib import Path


def write_helper(folder: Path, answer: str, code: int = 0) -> None:
    """Write a credential helper, `docker-credential-tests`, into `folder`; it records its input."""
    script = folder / "docker-credential-tests"
    script.write_text(f"#!/bin/sh\ncat > {folder}/asked\nprintf '%s' '{answer}'\nexit {code}\n")
    script.chmod(0o755)


@pytest.mark.parametrize("where", ["credHelpers", "credsStore"])
def test_a_credential_helper_is_asked(
    docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """By the protocol of docker-credential-helpers: the host on its standard input, JSON on its output."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    write_helper(tmp_path, json.dumps({"ServerURL": "ghcr.io", "Username": USER, "Secret": "s3cret"}))
    docker_config.write_text(json.dumps({where: {"ghcr.io": "tests"} if where == "credHelpers" else "tests"}))
    assert find_credentials("ghcr.io") == Credentials(username=USER, password="s3cret")
    assert (tmp_path / "asked").read_text() == "ghcr.io"


def test_a_helper_that_knows_nothing_and_one_that_fails(
    docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing found isn't an error, since models can be public. A failure names the program without quoting it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    docker_config.write_text(json.dumps({"credsStore": "tests"}))
    write_helper(tmp_path, "credentials not found in native keychain", 1)
    assert find_credentials("ghcr.io") is None
    write_helper(tmp_path, "a secret slipped out", 2)
    with pytest.raises(RegistryDenied, match=r"docker-credential-tests failed on ghcr.io with exit code 2") as caught:
        find_credentials("ghcr.io")
    assert "slipped" not in str(caught.value)
    docker_config.write_text(json.dumps({"credHelpers": {"ghcr.io": "absent"}}))
    with pytest.raises(RegistryDenied, match=r"docker-credential-absent, which .* can't be run"):
        find_credentials("ghcr.io")


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io"])
def test_docker_hub_has_a_name_of_its_own(docker_config: Path, key: str) -> None:
    """`docker login` without a host writes an address of old."""
    log_in(docker_config, key)
    assert find_credentials("docker.io") == Credentials(username=USER, password=PASSWORD)


@pytest.mark.parametrize("content", ["{", '{"auths": 3}', '{"auths": {"ghcr.io": {"auth": "c2VjcmV0"}}}'])
def test_a_config_that_cannot_be_read(docker_config: Path, content: str) -> None:
    """One sentence that names the file, and quotes nothing of it."""
    docker_config.write_text(content)
    with pytest.raises(RegistryDenied, match=r"config\.json") as caught:
        find_credentials("ghcr.io")
    assert "secret" not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "null",
        '{"auths": null}',
        '{"auths": {"ghcr.io": null}}',
        '{"auths": {}, "credsStore": null, "credHelpers": null}',
        '{"credHelpers": {"ghcr.io": null}}',
        '{"auths": {"ghcr.io": {"auth": null, "username": null}}}',
    ],
)
@pytest.mark.reported("docker-config-with-null")
def test_null_is_empty(docker_config: Path, content: str) -> None:
    """Docker, podman and skopeo read such files."""
    docker_config.write_text(content)
    assert find_credentials("ghcr.io") is None


def test_null_beside_a_login(docker_config: Path) -> None:
    docker_config.write_text('{"auths": {"ghcr.io": {"auth": "dTpw", "identitytoken": null}}, "credsStore": null}')
    assert find_credentials("ghcr.io") == Credentials(username="u", password="p")


def test_a_file_with_the_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As containers get secrets; one that can't be used is named."""
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", "u")
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", "another")
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD_FILE", str(tmp_path / "password"))
    for content, fact in ((None, "No such file"), (b"", "is empty"), (b"\xff\xfe", "it is not text")):
        if content is not None:
            (tmp_path / "password").write_bytes(content)
        with pytest.raises(RegistryDenied, match=fact) as caught:
            find_credentials("ghcr.io")
        assert "TANDEM_REGISTRY_PASSWORD_FILE" in str(caught.value)
    (tmp_path / "password").write_text("p\n")
    assert find_credentials("ghcr.io") == Credentials(username="u", password="p")


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's user may have none: there are no credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", "")
    assert find_credentials("ghcr.io") is None


def test_secrets_are_in_no_repr() -> None:
    """A traceback or a log line with the value shows the user's name alone."""
    shown = repr(Credentials(username=USER, password=PASSWORD, identity_token="refresh-secret"))
    assert shown == f"Credentials(username='{USER}')"
