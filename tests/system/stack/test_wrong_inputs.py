"""What deploy/compose.yaml and deploy/roll say if something is missing or wrong."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.registry.servers import free_port
from tests.system.docker import docker
from tests.system.stack.running import DEPLOY, IMAGES, MODEL, PROFILES, Stack, stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def partial(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Yield a stack of which only an empty registry runs."""
    with stack(tmp_path_factory.mktemp("partial"), f"tandem-partial-{os.getpid()}", free_port()) as started:
        started.compose("up", "-d", "registry")
        started.wait_healthy("registry", 1)
        yield started


def test_every_profile_is_valid(partial: Stack) -> None:
    """`config` accepts the file with all profiles; nothing but nginx is published on all addresses."""
    profiles = [part for profile in PROFILES for part in ("--profile", profile)]
    services = yaml.safe_load(partial.compose(*profiles, "config").stdout)["services"]
    assert services["api-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports.pop("nginx") == [f"127.0.0.1:{partial.port}:8080/tcp"]
    assert set(ports) == {"grafana", "notebook"}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)


def test_each_variable_is_explained() -> None:
    """deploy/.env.example has every variable that deploy/compose.yaml reads, and no other."""
    read = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())) | {"TANDEM_BASE_IMAGE"}
    explained = re.findall(r"^#(\w+)=", (DEPLOY / ".env.example").read_text(), flags=re.MULTILINE)
    assert sorted(explained) == sorted(read | {"COMPOSE_PROJECT_NAME"})


def test_the_registrys_password_is_a_file(partial: Stack, tmp_path: Path) -> None:
    """What talks to a registry has the file of TANDEM_REGISTRY_PASSWORD_FILE, and no password in its environment."""
    (tmp_path / "password").write_text("a-password-of-mine")
    settings = {"TANDEM_REGISTRY_PASSWORD_FILE": str(tmp_path / "password"), "TANDEM_REGISTRY_PASSWORD": "in-a-shell"}
    show = ("import os; print(open(os.environ['TANDEM_REGISTRY_PASSWORD_FILE']).read(), *os.environ.values())",)
    for service in ("api", "batch", "seed"):
        command = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "python", service, "-c", *show)
        shown = partial.compose(*command, **settings).stdout
        assert shown.startswith("a-password-of-mine ")
        assert "in-a-shell" not in shown


def test_a_model_that_the_registry_lacks_ends_a_replica_with_one_sentence(partial: Stack) -> None:
    """With an empty registry a replica ends with exit code 1, and names the model."""
    done = partial.compose("run", "--rm", "-T", "--no-deps", "api", check=False)
    assert done.returncode == 1
    assert f"{MODEL}:1" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_registry_that_is_down_ends_a_replica_with_one_sentence(partial: Stack) -> None:
    """Without a registry a replica tries again for TANDEM_REGISTRY_TIMEOUT, then ends and names the registry."""
    nowhere = ("-e", "TANDEM_MODEL=registry:5999/tandem/digits:1", "-e", "TANDEM_REGISTRY_PLAIN_HTTP=registry:5999")
    options = (*nowhere, "-e", "TANDEM_REGISTRY_TIMEOUT=3")
    done = partial.compose("run", "--rm", "-T", "--no-deps", *options, "api", check=False)
    assert done.returncode == 1
    assert "registry:5999" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_taken_port_is_named(partial: Stack) -> None:
    """If something else listens on TANDEM_PORT, `up` fails and names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = partial.compose("up", "-d", "--no-deps", "nginx", check=False, TANDEM_PORT=f"127.0.0.1:{port}")
    assert done.returncode != 0
    assert f"127.0.0.1:{port}" in done.stderr


def test_a_folder_without_certificate_is_named(partial: Stack, tmp_path: Path) -> None:
    """With TANDEM_TLS, nginx never falls back to plain HTTP."""
    done = partial.compose("run", "--rm", "-T", "--no-deps", "nginx", check=False, TANDEM_TLS=str(tmp_path))
    assert done.returncode == 1
    assert f"Error: TANDEM_TLS is '{tmp_path}', but tls.crt is not in that folder" in done.stderr + done.stdout


def test_passwords_of_your_own_are_used(partial: Stack, tmp_path: Path) -> None:
    """TANDEM_SECRETS names a folder: what is there stays, what is missing is made."""
    (tmp_path / "db").write_text("a-password-of-mine")
    settings = {"TANDEM_SECRETS": str(tmp_path)}
    done = partial.compose("run", "--rm", "-T", "--no-deps", "setup", **settings)
    assert "made the secret 'secrets/cache'" in done.stdout
    assert "'secrets/db'" not in done.stdout
    show = ("--entrypoint", "cat", "setup", "/volumes/secrets/db")
    assert partial.compose("run", "--rm", "-T", "--no-deps", *show, **settings).stdout == "a-password-of-mine"


def test_secrets_that_cannot_be_made_are_named(partial: Stack) -> None:
    """If the folder of the passwords is empty and read-only, `setup` names file and remedy."""
    folder = ("--read-only", "--tmpfs", "/volumes/secrets:ro", "--volume", f"{partial.deploy / 'setup'}:/setup:ro")
    done = docker("run", "--rm", *folder, "--entrypoint", "sh", IMAGES["TANDEM_REDIS_IMAGE"], "/setup", check=False)
    assert done.returncode == 1
    expected = (
        "setup: 'secrets/db' does not exist and can't be written: make the folder writable, or put a password into it"
    )
    assert expected in done.stderr


def test_roll_explains_itself(partial: Stack) -> None:
    """`deploy/roll --help` says what it does; wrong usage has exit code 2."""
    assert "Exit codes:" in partial.roll("--help").stdout
    for arguments in (("--fast",), ("digits:1", "digits:2"), ("--service",)):
        assert partial.roll(*arguments, check=False).returncode == 2
    wrong = partial.roll(check=False, TANDEM_ROLL_TIMEOUT="soon")
    assert wrong.returncode == 2
    assert wrong.stderr == "Error: TANDEM_ROLL_TIMEOUT is 'soon', which is not a number of seconds\n"


def test_roll_runs_once_at_a_time(partial: Stack) -> None:
    """While one deploy/roll runs, a second one says so."""
    with (partial.deploy / "compose.yaml").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = partial.roll(check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: another deploy/roll replaces the replicas: wait until it has ended\n"


def test_roll_needs_a_running_stack(partial: Stack) -> None:
    """Without a replica there is nothing to replace."""
    done = partial.roll(check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no replica of 'api' runs: start the stack with ")
