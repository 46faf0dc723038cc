"""Credentials of remote registries, as Docker keeps them.

In this order: `TANDEM_REGISTRY_USERNAME` with `_PASSWORD` or `_PASSWORD_FILE`; then from Docker's `config.json`: the
host's helper (`credHelpers`), the helper for all hosts (`credsStore`), and the entries of `docker login` (`auths`).
Formats: Docker's "docker login" reference, and the docker-credential-helpers protocol.
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from collections.abc import Mapping  # noqa: TC003 - msgspec reads the annotations
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from classifier.environment import password_in
from classifier.errors import RegistryDenied

PASSWORD_FILE = "TANDEM_REGISTRY_PASSWORD_FILE"  # noqa: S105 # the name of a variable
"""Names a file with the password, which takes precedence over `TANDEM_REGISTRY_PASSWORD`."""
_DOCKER_HUB = "https://index.docker.io/v1/"
"""Docker's key for the credentials of docker.io."""
_HELPER_TIMEOUT_S = 60.0
"""A helper may call a cloud's API, or ask a person to unlock a key ring."""
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - the user name that marks a helper's secret as a refresh token


class HelperFailed(RegistryDenied):
    """A credential helper can't be run or fails; a public model needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name with a password or an identity token. No `repr` shows the secrets.

    Attributes:
        identity_token: an OAuth2 refresh token, which some registries use instead of a password.
    """

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The `Authorization` header's value (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must never be shown."""
        return tuple(secret for secret in (self.password, self.identity_token, self.basic[6:]) if secret)


class _Login(msgspec.Struct, kw_only=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct, kw_only=True, rename="camel"):
    auths: Mapping[str, _Login] = {}
    cred_helpers: Mapping[str, str] = {}
    creds_store: str = ""


class _HelperAnswer(msgspec.Struct, kw_only=True, rename="pascal"):
    username: str
    secret: str


def find_credentials(host: str) -> Credentials | None:
    """Return the credentials for the registry `host`; None if there are none, as for public models.

    Raises:
        RegistryDenied: the password's file or Docker's config can't be used.
        HelperFailed: the helper in it can't be used.
    """
    if username := os.environ.get("TANDEM_REGISTRY_USERNAME"):
        return Credentials(username=username, password=_password())
    path = docker_config_path()
    config = _read_config(path)
    for name in _names(host):
        if helper := config.cred_helpers.get(name):
            return _ask_helper(helper, name)
    if config.creds_store:
        for name in _names(host):
            if credentials := _ask_helper(config.creds_store, name):
                return credentials
    for name in _names(host):
        if login := config.auths.get(name):
            return _from_login(login, name, path)
    return None


def _password() -> str:
    try:
        return password_in(PASSWORD_FILE) or os.environ.get("TANDEM_REGISTRY_PASSWORD", "")
    except ValueError as error:
        raise RegistryDenied(str(error)) from error


def docker_config_path() -> Path:
    """Return the path of Docker's `config.json`, in `$DOCKER_CONFIG`, else in `~/.docker`."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path(os.path.expanduser("~/.docker"))) / "config.json"  # noqa: PTH111 - no error without a home


def _names(host: str) -> tuple[str, ...]:
    """Return Docker's possible keys for the credentials of `host`."""
    if host == "docker.io":
        return (_DOCKER_HUB, "index.docker.io", "docker.io")
    return (host, f"https://{host}", f"http://{host}", f"https://{host}/v2/", f"https://{host}/v1/")


def _read_config(path: Path) -> _DockerConfig:
    try:
        # Docker and its kin take null for whatever is empty.
        return msgspec.convert(_without_nulls(msgspec.json.decode(path.read_bytes())), _DockerConfig)
    except FileNotFoundError:
        return _DockerConfig()
    except OSError as error:
        raise RegistryDenied(f"{path} can't be read ({error.strerror}): check its permissions") from error
    except msgspec.MsgspecError:
        # Without the cause, whose message could quote the file.
        raise RegistryDenied(f"{path} is not a Docker config: repair it, or log in again with 'docker login'") from None


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return {} if value is None else value


def _from_login(login: _Login, name: str, path: Path) -> Credentials | None:
    if login.auth:
        try:
            username, colon, password = base64.b64decode(login.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise RegistryDenied(f"'auth' of {name} in {path} can't be read: run 'docker login {name}' again") from None
        # Docker pads some passwords with zero bytes, and strips them itself.
        return Credentials(username=username, password=password.rstrip("\0"), identity_token=login.identitytoken)
    if login.username or login.identitytoken:
        return Credentials(username=login.username, password=login.password, identity_token=login.identitytoken)
    return None  # An empty entry, as a credential store leaves it in `auths`.


def _ask_helper(helper: str, name: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=name.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise HelperFailed(
            f"{program}, which {docker_config_path()} names for {name}, can't be run ({error.strerror}): install it, "
            "or remove it from that file"
        ) from error
    except subprocess.TimeoutExpired:
        raise HelperFailed(
            f"{program} gave no credentials for {name} within {_HELPER_TIMEOUT_S:.0f} s: run it yourself to see why"
        ) from None
    if done.returncode != 0:
        if b"credentials not found" in done.stdout:
            return None
        raise HelperFailed(
            f"{program} failed on {name} with exit code {done.returncode}: run 'echo {name} | {program} get' to see why"
        )
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except msgspec.MsgspecError:
        raise HelperFailed(f"{program} gave an answer for {name} that is not a credential: check its version") from None
    if answer.username == _IDENTITY_TOKEN_USER:
        return Credentials(username="", identity_token=answer.secret)
    return Credentials(username=answer.username, password=answer.secret)
