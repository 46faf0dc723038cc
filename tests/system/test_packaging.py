"""How a container gets its model, in a real Docker: baked in by `tandem package`, mounted, or pulled at start."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import urllib.request
import uuid
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from commands.package.images import SBOM_TYPE
from registry import LocalRegistry
from registry.pushing import push
from registry.remote.referrers import fetch_referrers
from registry.remote.repository import RemoteRepository
from tests.conftest import ROOT, Tandem
from tests.registry.artifacts import make_keys
from tests.registry.servers import PASSWORD, USER, free_port, needs_registry
from tests.system.docker import HARDENED, OWNER, USED, docker, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

pytestmark = [needs_registry, pytest.mark.containers, pytest.mark.timeout(1500)]

OCI_REGISTRY = os.environ.get("TANDEM_TEST_REGISTRY", "localhost:5000")


@pytest.fixture(scope="module")
def image_registry(request: pytest.FixtureRequest) -> str:
    """Return the host of the image registry on this machine, else of one that the tests start."""
    host, _, port = OCI_REGISTRY.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), timeout=5).close()
        return OCI_REGISTRY
    own: str = request.getfixturevalue("remote_host")
    return own


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A model in a registry, and a machine that has no copy of it.

    Attributes:
        reference: `HOST/tests/…/digits:1`.
        digest: the model's digest.
        home: the other machine's TANDEM_HOME.
    """

    reference: str
    digest: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"TANDEM_HOME": str(self.home), "BENTOML_HOME": str(self.home / "bentoml")}

    def image(self, kind: str) -> str:
        return self.reference.replace("/digits:", f"/digits-{kind}:")

    @property
    def identity(self) -> str:
        return f"{self.reference.removesuffix(':1')}@{self.digest}"


@pytest.fixture(scope="module")
def team(digits_home: Path, image_registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Yield `digits:1` in the registry that holds the images. At the end, its images are removed from Docker."""
    target = f"{image_registry}/tests/{uuid.uuid4().hex}/digits"
    pushed = push("digits:1", target, LocalRegistry(digits_home / "registry"))
    yield Team(reference=f"{target}:1", digest=pushed.digest, home=tmp_path_factory.mktemp("team"))
    for kind in ("service", "batch"):
        for image in docker("image", "ls", "--quiet", f"{target}-{kind}").stdout.split():
            docker("image", "rm", "--force", image, check=False)


def pull_alone(image: str, pushed: str) -> str:
    """Return the image's reference by digest, after removing the local image and pulling it from the registry."""
    [reference] = [line.removeprefix("pushed as ") for line in pushed.splitlines() if line.startswith("pushed as ")]
    assert reference.startswith(image.rpartition(":")[0] + "@sha256:")
    docker("image", "rm", "--force", image)
    docker("pull", reference)
    return reference


def commit() -> str:
    """Return the commit of the sources."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def assert_labelled(image: str, identity: str, revision: str) -> None:
    """Assert that the labels name the model and the commit in the image."""
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image).stdout)
    assert labels["tandem.model"] == identity
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == revision


def assert_listed(image: str, package: str, team: Team) -> None:
    """Assert that image and model have the list of the image's packages attached, and that it names `package`."""
    for reference in (image, team.identity):
        host, _, rest = reference.partition("/")
        name, _, digest = rest.partition("@")
        repository = RemoteRepository(host, name)
        attached = [each for each in fetch_referrers(digest, repository) if each.descriptor.artifact_type == SBOM_TYPE]
        lists = [json.loads(each.blobs[each.manifest.layers[0].digest]) for each in attached]
        assert any(package in {part["name"] for part in each["components"]} for each in lists), reference


def classify(url: str, image: bytes) -> dict[str, object]:
    """Return the service's answer."""
    request = urllib.request.Request(f"{url}/classify", data=image, headers={"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def bulk(images: Path, output: Path, *options: str | Path) -> list[str | Path]:
    """Return the options of a `docker run` that reads `images` and writes `output`."""
    output.mkdir()
    os.chown(output, OWNER, OWNER)
    return ["run", *HARDENED, *USED, "--volume", f"{images}:/in:ro", "--volume", f"{output}:/out", *options]


def rows(output: Path) -> list[dict[str, object]]:
    """Return the rows of a bulk run."""
    return [json.loads(line) for part in sorted(output.glob("parts/*")) for line in part.read_bytes().splitlines()]


BATCH = ("batch", "/in", "--output", "/out", "--format", "jsonl")


class TestBaked:
    def test_the_service_answers_with_the_packaged_digest(
        self, team: Team, tandem: Tandem, image: bytes, test_folder: Path, tmp_path: Path
    ) -> None:
        """A service packaged, pushed, pulled by digest and run without a registry is in parity with the bulk run.

        The parity report can be attached to the model.
        """
        target, sources = team.image("service"), commit()
        done = tandem("package", team.reference, "--push", target, env=team.environment, timeout=1200)
        assert done.stdout.startswith(f"{target} holds {team.identity}, revision ")
        assert not (team.home / "bentoml").exists()  # the Bento was a temporary file
        pulled = pull_alone(target, done.stdout)
        assert_labelled(pulled, team.identity, sources)
        with running(pulled) as url:
            assert classify(url, image)["digest"] == team.digest
            report = tmp_path / "parity.json"
            tandem(
                "parity", team.reference, test_folder / "3", "--service", url, "--report", report, env=team.environment
            )
        kind = "application/vnd.tandem.parity.v1+json"
        tandem("models", "attach", team.reference, report, "--type", kind, env=team.environment)
        assert kind in tandem("models", "show", team.reference, env=team.environment).stdout
        assert_listed(pulled, "bentoml", team)

    def test_the_bulk_run_needs_no_model_named(
        self, team: Team, tandem: Tandem, test_folder: Path, tmp_path: Path
    ) -> None:
        """The image's self-test passes, and its rows come from the model that was packaged."""
        options, sources = ("--batch", "--device", "cpu", "--push"), commit()
        done = tandem("package", team.reference, *options, env=team.environment, timeout=1200)
        pulled = pull_alone(team.image("batch"), done.stdout)
        assert_labelled(pulled, team.identity, sources)
        replayed = docker("run", *HARDENED, *USED, "--network", "none", pulled, "selftest")
        assert replayed.stdout.startswith(f"ok  {team.identity}: ")
        docker(*bulk(test_folder / "3", tmp_path / "out", "--network", "none"), pulled, *BATCH)
        found = rows(tmp_path / "out")
        assert len(found) == len(list((test_folder / "3").iterdir()))
        assert {row["model"] for row in found} == {team.identity}
        assert_listed(pulled, "pyarrow", team)

    def test_a_registry_that_refuses_the_image(self, team: Team, tandem: Tandem, locked_host: str) -> None:
        """The image is built; the sentence has Docker's reason, and how to log in and continue."""
        target = f"{locked_host}/acme/digits-batch:1"
        options = ("--batch", "--device", "cpu", "--push", target)
        done = tandem("package", team.reference, *options, env=team.environment, timeout=1200, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        sentence = done.stderr.splitlines()[-1]
        assert sentence.startswith(f"Error: the image {target} is built but can't be pushed (")
        assert f"'docker login {locked_host}'" in sentence
        docker("image", "rm", target)


class TestMounted:
    def test_the_service_serves_a_model_of_a_mounted_registry(
        self, service_image: str, team: Team, tandem: Tandem, image: bytes
    ) -> None:
        """TANDEM_MODEL overrides the model in the image. Here it names the pulled copy of a remote model."""
        tandem("models", "pull", team.reference, env=team.environment)
        options = ("--volume", f"{team.home}:/tandem:ro", "--env", f"TANDEM_MODEL={team.reference}")
        team.home.chmod(0o755)
        with running(service_image, *options) as url:
            assert classify(url, image)["model"] == team.identity

    # test_containers.py tests the bulk run with a mounted registry.


@pytest.fixture(scope="module")
def locked(
    digits_home: Path, locked_host: str, authority: tuple[trustme.CA, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """Yield a signed model behind TLS and a password, a folder with the CA and the public key, and the private key."""
    folder = tmp_path_factory.mktemp("locked-model")
    mounted = folder / "mounted"
    mounted.mkdir(mode=0o755)
    private, public = make_keys(folder, "ours")
    for source, name in ((authority[1], "ca.pem"), (public, "trusted.pub")):
        (mounted / name).write_bytes(source.read_bytes())
    auth = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (mounted / "config.json").write_text(json.dumps({"auths": {locked_host: {"auth": auth}}}))
    for path in mounted.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_REGISTRY_CA", str(authority[1]))
        patch.setenv("TANDEM_REGISTRY_USERNAME", USER)
        patch.setenv("TANDEM_REGISTRY_PASSWORD", PASSWORD)
        push("digits:1", f"{locked_host}/acme/digits", LocalRegistry(digits_home / "registry"))
        yield f"{locked_host}/acme/digits:1", mounted, private


def pulling(reference: str, mounted: Path) -> list[str]:
    """Return the options of a container that pulls at start, into its /tmp: everything else is read-only."""
    return [
        *("--network", "host", "--volume", f"{mounted}:/etc/tandem:ro"),
        *("--env", "TANDEM_HOME=/tmp/tandem", "--env", f"TANDEM_MODEL={reference}"),
        *("--env", "TANDEM_REGISTRY_CA=/etc/tandem/ca.pem"),
    ]


CONFIG = ("--env", "DOCKER_CONFIG=/etc/tandem")
ENVIRONMENT = ("--env", f"TANDEM_REGISTRY_USERNAME={USER}", "--env", f"TANDEM_REGISTRY_PASSWORD={PASSWORD}")
TRUSTING = ("--env", "TANDEM_TRUSTED_KEY=/etc/tandem/trusted.pub")


class TestPulled:
    """From a registry with a private CA and a password. The order matters: the last test signs the model."""

    @pytest.mark.parametrize("credentials", [ENVIRONMENT, CONFIG], ids=["environment", "config.json"])
    def test_the_service_pulls_at_start(
        self, service_image: str, locked: tuple[str, Path, Path], image: bytes, credentials: tuple[str, ...]
    ) -> None:
        """With credentials from the environment or from Docker's config.json."""
        reference, mounted, _ = locked
        port = free_port()
        options, at = (*pulling(reference, mounted), *credentials), f"http://127.0.0.1:{port}"
        with running(service_image, *options, arguments=("--port", str(port)), url=at) as url:
            assert str(classify(url, image)["model"]).startswith(reference.removesuffix(":1") + "@sha256:")

    @pytest.mark.parametrize("credentials", [ENVIRONMENT, CONFIG], ids=["environment", "config.json"])
    def test_the_bulk_run_pulls_at_start(
        self,
        batch_image: str,
        locked: tuple[str, Path, Path],
        test_folder: Path,
        tmp_path: Path,
        credentials: tuple[str, ...],
    ) -> None:
        """With the same credentials as the service."""
        reference, mounted, _ = locked
        docker(
            *bulk(test_folder / "3", tmp_path / "out", *pulling(reference, mounted), *credentials), batch_image, *BATCH
        )
        assert {str(row["model"]).partition("@")[0] for row in rows(tmp_path / "out")} == {reference.removesuffix(":1")}

    def test_wrong_credentials_end_both_with_one_sentence(
        self, service_image: str, batch_image: str, locked: tuple[str, Path, Path], test_folder: Path, tmp_path: Path
    ) -> None:
        """Both exit with 1, and print neither a traceback nor the password."""
        reference, mounted, _ = locked
        wrong = ("--env", f"TANDEM_REGISTRY_USERNAME={USER}", "--env", "TANDEM_REGISTRY_PASSWORD=wrong-secret")
        options = (*pulling(reference, mounted), *wrong)
        served = docker("run", *HARDENED, *USED, *options, service_image, "--port", str(free_port()), check=False)
        ran = docker(*bulk(test_folder / "3", tmp_path / "out", *options), batch_image, *BATCH, check=False)
        for done in (served, ran):
            assert done.returncode == 1
            assert "as a user who may" in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr
            assert "wrong-secret" not in done.stderr

    def test_with_a_trusted_key_an_unsigned_model_is_refused(
        self,
        service_image: str,
        batch_image: str,
        locked: tuple[str, Path, Path],
        test_folder: Path,
        tmp_path: Path,
        tandem: Tandem,
        image: bytes,
    ) -> None:
        """Service and bulk run refuse it, and accept it once it is signed in its registry."""
        reference, mounted, private = locked
        options, port = (*pulling(reference, mounted), *CONFIG, *TRUSTING), str(free_port())
        served = docker("run", *HARDENED, *USED, *options, service_image, "--port", port, check=False)
        ran = docker(*bulk(test_folder / "3", tmp_path / "refused", *options), batch_image, *BATCH, check=False)
        for done in (served, ran):
            assert done.returncode == 1
            assert f"'{reference}' is not signed" in done.stderr.splitlines()[-1]
        tandem("models", "sign", reference, "--key", private, env={"TANDEM_HOME": str(tmp_path / "home")})
        at = f"http://127.0.0.1:{port}"
        with running(service_image, *options, arguments=("--port", port), url=at) as url:
            assert classify(url, image)["predictions"]
        docker(*bulk(test_folder / "3", tmp_path / "out", *options), batch_image, *BATCH)
        assert rows(tmp_path / "out")
