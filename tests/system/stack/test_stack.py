"""deploy/compose.yaml from nothing to a second version, with what may fail in between. One stack, in this order."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from classifier.artifact import CARD
from registry import LocalRegistry
from tests.load import load
from tests.system.docker import docker, wait_until
from tests.system.stack.running import IMAGES, MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.stack.running import Stack

# Building the images counts towards the first test's time.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

SERVED = ("api", "cache", "db", "nginx", "registry")


@pytest.fixture(scope="module")
def digits(test_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))]


def classify(stack: Stack, image: bytes) -> httpx.Response:
    return httpx.post(f"{stack.url}/classify", content=image, timeout=60).raise_for_status()


def test_one_command_ends_in_a_working_page(running: Stack, digits: list[bytes], test_folder: Path) -> None:
    """`up` on a fresh clone makes passwords, fills the registry, and serves the page and the model through nginx."""
    page = httpx.get(running.url).raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    three = classify(running, (test_folder / "3" / "1004.png").read_bytes()).json()
    assert three["predictions"][0]["label"] == "3"
    assert three["model"].startswith(f"{MODEL}@sha256:")
    for service in SERVED:
        running.wait_healthy(service, 1)


def test_a_second_up_changes_nothing(running: Stack) -> None:
    """`up` again keeps the passwords, the model and the containers."""
    before = {service: running.ids(service) for service in SERVED}
    passwords = running.python("api", "print(open('/run/secrets/db').read())")
    running.compose("up", "-d")
    assert {service: running.ids(service) for service in SERVED} == before
    assert running.python("api", "print(open('/run/secrets/db').read())") == passwords
    assert f"{MODEL} has a model already" in running.compose("logs", "seed").stdout


def test_answers_are_logged_and_shared(running: Stack, digits: list[bytes]) -> None:
    """Answers are in PostgreSQL's prediction log, and in Redis for other replicas."""
    request_id = classify(running, digits[0]).headers["x-request-id"]
    query = f"select label is not null from tandem_predictions where request_id = '{request_id}'"
    wait_until(lambda: running.sql(query) == "t", "the row of the prediction log")
    keys = "import redis; print(len(redis.Redis('cache', password=open('/run/secrets/cache').read()).keys('tandem:*')))"
    wait_until(lambda: int(running.python("api", keys)) > 0, "a result in Redis")


def test_a_client_cannot_claim_another_address(running: Stack, digits: list[bytes]) -> None:
    """What a client writes into X-Forwarded-For does not reach the service."""
    answer = httpx.post(f"{running.url}/classify", content=digits[0], headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == 200
    assert httpx.get(f"{running.url}/metrics").status_code == 404
    assert "203.0.113.9" not in running.compose("logs", "api", "nginx").stdout


def test_a_body_over_65_mib_is_refused(running: Stack) -> None:
    """nginx answers 413 with a reason in the service's own form."""
    answer = httpx.post(f"{running.url}/classify", content=b"\0" * (66 << 20), timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["reason"] == "too_large"


def test_health_checks_are_not_logged(running: Stack) -> None:
    """Docker's health check of nginx, every 2 s, leaves no line in its log."""
    logged = running.compose("logs", "--no-color", "nginx").stdout
    assert '"path":"/classify"' in logged
    assert '"client":"127.0.0.1"' not in logged


def test_only_nginx_is_published(running: Stack) -> None:
    """Nothing but nginx's port can be reached from outside."""
    published = {service: running.inspect(service)["HostConfig"]["PortBindings"] or {} for service in SERVED}
    assert {service for service, ports in published.items() if ports} == {"nginx"}


@pytest.mark.parametrize(
    ("service", "network", "port"), [("db", "data", 5432), ("cache", "data", 6379), ("registry", "models", 5000)]
)
def test_nginx_reaches_only_the_replicas(running: Stack, service: str, network: str, port: int) -> None:
    """From nginx's container neither name nor address of the others answers."""
    address = running.inspect(service)["NetworkSettings"]["Networks"][f"{running.name}_{network}"]["IPAddress"]
    for host in (service, address):
        command = ("exec", "-T", "nginx", "curl", "-s", "--max-time", "2", f"telnet://{host}:{port}")
        assert running.compose(*command, check=False).returncode != 0
    assert running.python("api", f"import socket; print(bool(socket.create_connection(('{service}', {port}), 5)))")


def test_replicas_believe_only_the_network_of_nginx(running: Stack) -> None:
    """TANDEM_TRUSTED_PROXIES is the network `front`, and nginx's address is in it."""
    trusted = ip_network(running.python("api", "import os; print(os.environ['TANDEM_TRUSTED_PROXIES'])"))
    networks = running.inspect("nginx")["NetworkSettings"]["Networks"]
    assert ip_address(networks[f"{running.name}_front"]["IPAddress"]) in trusted
    for service in ("db", "cache", "registry"):
        networks = running.inspect(service)["NetworkSettings"]["Networks"]
        assert not any(ip_address(network["IPAddress"]) in trusted for network in networks.values())


def test_the_notebook_works_and_reaches_no_replica(running: Stack) -> None:
    """The profile notebook answers 200 to its token. It reaches the registry, but no replica by name or address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running.compose("--profile", "notebook", "up", "-d", "--no-deps", "notebook", TANDEM_NOTEBOOK_PORT=str(port))
    running.wait_healthy("notebook", 1)
    token = running.python("notebook", "print(open('/run/tokens/jupyter').read())")
    url = f"http://127.0.0.1:{port}/api/status"
    assert httpx.get(url).status_code == 403
    assert httpx.get(url, headers={"Authorization": f"token {token}"}).status_code == 200
    assert running.python("notebook", connect("registry", 5000)) == "reached"
    replicas = [network["IPAddress"] for network in running.inspect("api")["NetworkSettings"]["Networks"].values()]
    for host in ("api", *replicas):
        assert running.python("notebook", connect(host, 3000)) != "reached"


def connect(host: str, port: int) -> str:
    """Return a program that prints whether it can connect."""
    return f"""
import socket
try:
    socket.create_connection(('{host}', {port}), 2)
    print('reached')
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("service", SERVED)
def test_each_container_is_confined(running: Stack, service: str) -> None:
    """Each container has a numeric user that is not root, a read-only root, no capabilities, limits, and restarts."""
    described = running.inspect(service)
    host = described["HostConfig"]
    user = described["Config"]["User"].partition(":")[0]
    assert user.isdecimal()
    assert user != "0"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_no_password_is_in_an_environment_or_a_command(running: Stack) -> None:
    """Passwords are only in files."""
    both = "print(*(open(f'/run/secrets/{name}').read() for name in ('db', 'cache')))"
    passwords = running.python("api", both).split()
    assert all(len(password) > 40 for password in passwords)
    for service in SERVED:
        shown = json.dumps(running.inspect(service)) + docker("top", running.ids(service)[0], "-o", "pid,args").stdout
        assert not any(password in shown for password in passwords)


def test_tandem_log_reads_the_log_in_a_replica(running: Stack) -> None:
    """`exec api tandem log summary` needs no further setting."""
    summary = running.compose("exec", "-T", "api", "tandem", "log", "summary").stdout
    assert "images" in summary.splitlines()[0]
    assert "digits@" in summary


def test_batch_classifies_a_mounted_folder(running: Stack, test_folder: Path, tmp_path: Path) -> None:
    """`run batch` classifies the folder TANDEM_IMAGES with the registry's model."""
    shutil.copytree(test_folder / "3", tmp_path / "in")
    (tmp_path / "out").mkdir()
    settings = {"TANDEM_IMAGES": str(tmp_path / "in"), "TANDEM_OUTPUT": str(tmp_path / "out")}
    settings["TANDEM_USER"] = f"{os.getuid()}:{os.getgid()}"
    running.compose("run", "--rm", "-T", "batch", **settings)
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_scales_and_prometheus_finds_each_replica(running: Stack) -> None:
    """TANDEM_API_REPLICAS=3: nginx spreads requests over three replicas, and Prometheus scrapes each."""
    with (running.deploy / ".env").open("a") as settings:
        settings.write("TANDEM_API_REPLICAS=3\n")
    running.compose("up", "-d")
    running.compose("--profile", "monitoring", "up", "-d", "--no-deps", "prometheus")
    running.wait_healthy("api", 3)

    def replicas() -> set[str]:
        asked = [httpx.get(f"{running.url}/readyz").status_code for _ in range(30)]
        assert set(asked) == {200}
        lines = running.compose("logs", "--no-color", "--tail", "30", "nginx").stdout.splitlines()
        return {json.loads(line.partition("| ")[2])["replicas"] for line in lines if '"path":"/readyz"' in line}

    wait_until(lambda: len(replicas()) == 3, "three replicas behind nginx", within_s=30)

    def scraped() -> list[str]:
        query = "http://127.0.0.1:9090/api/v1/query?query=up"
        done = running.compose("exec", "-T", "prometheus", "wget", "-qO-", query, check=False)
        return [found["value"][1] for found in json.loads(done.stdout or '{"data":{"result":[]}}')["data"]["result"]]

    wait_until(lambda: scraped() == ["1", "1", "1"], "three scraped replicas", within_s=60)


def test_a_killed_replica_costs_no_request(running: Stack, digits: list[bytes]) -> None:
    """`kill -9` of a replica under load: each request is answered with 200, and the replica comes back."""
    pid = str(running.inspect("api")["State"]["Pid"])
    with load(running.url, digits) as seen:
        seen.wait_for(20)
        kill = (
            "--pid",
            "host",
            "--user",
            "0",
            "--entrypoint",
            "sh",
            IMAGES["TANDEM_REDIS_IMAGE"],
            "-c",
            f"kill -9 {pid}",
        )
        docker("run", "--rm", *kill)
        seen.wait_for(200)
        running.wait_healthy("api", 3)
        seen.wait_for(50)
    assert seen.failures == []


def test_a_lost_database_costs_no_request(running: Stack, digits: list[bytes]) -> None:
    """Without PostgreSQL the replicas answer; what waits is in the log when it is back."""
    before = int(running.sql("select count(*) from tandem_predictions"))
    with load(running.url, digits) as seen:
        running.compose("stop", "db")
        seen.wait_for(100)
        running.compose("start", "db")
        running.wait_healthy("db", 1)
    assert seen.failures == []
    expected = before + len(seen.digests)
    query = "select count(*) from tandem_predictions"
    wait_until(lambda: int(running.sql(query)) >= expected, "all rows", within_s=60)


def test_a_lost_cache_costs_no_request(running: Stack, digits: list[bytes]) -> None:
    """Without Redis the replicas answer."""
    with load(running.url, digits) as seen:
        running.compose("stop", "cache")
        seen.wait_for(100)
        running.compose("start", "cache")
        running.wait_healthy("cache", 1)
        seen.wait_for(20)
    assert seen.failures == []


def test_replicas_start_without_database_and_cache(running: Stack, digits: list[bytes]) -> None:
    """With PostgreSQL and Redis down, restarted replicas become healthy and answer."""
    running.compose("stop", "db", "cache")
    running.compose("restart", "api")
    running.wait_healthy("api", 3)
    assert classify(running, digits[0]).status_code == 200
    running.compose("start", "db", "cache")
    for service in ("db", "cache"):
        running.wait_healthy(service, 1)


@pytest.fixture(scope="module")
def second_version(running: Stack, digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Push a second version into the stack's registry as docs/deploy/compose.md says, and return its digest."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(digits_home / "registry", home / "registry")
    registry = LocalRegistry(home / "registry")
    old = registry.resolve("digits:1")
    registry.add("digits", {file: old.read(file) for file in old.files} | {CARD: b"# again\n"})
    settings = ("-e", "TANDEM_SEED_MODEL=digits:2", "-e", f"TANDEM_SEED_TARGET={MODEL}:2")
    settings = (*settings, "--user", f"{os.getuid()}:{os.getgid()}")
    done = running.compose("run", "--rm", "-T", *settings, "-v", f"{home}:/tandem", "seed")
    digest = registry.resolve("digits:2").digest
    assert digest in done.stdout
    return digest


def test_rolls_to_a_second_version_without_a_lost_request(
    running: Stack, digits: list[bytes], second_version: str
) -> None:
    """deploy/roll replaces three replicas under load: each request is answered with 200, at last by the new model."""
    before = running.ids("api")
    with load(running.url, digits) as seen:
        seen.wait_for(20)
        done = running.roll(f"{MODEL}:2")
        rolled = len(seen.digests)
        seen.wait_for(50)
    assert seen.failures == []
    assert done.stdout.splitlines()[-1] == f"all 3 replicas of 'api' are new and serve {MODEL}:2"
    assert len(running.ids("api")) == 3
    assert not {*before} & {*running.ids("api")}
    assert {*seen.digests[rolled + 4 :]} == {second_version}
    rolled_ids = running.ids("api")
    running.compose("up", "-d")
    assert running.ids("api") == rolled_ids  # `up` keeps the new model, and the number


def test_a_version_that_cannot_start_is_taken_back(running: Stack, digits: list[bytes], second_version: str) -> None:
    """deploy/roll to a missing version changes nothing, says why, and costs no request."""
    before = running.ids("api")
    with load(running.url, digits) as seen:
        done = running.roll(f"{MODEL}:9", check=False)
        seen.wait_for(20)
    assert seen.failures == []
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: a new replica did not become healthy, the old ones serve {MODEL}:2: ")
    assert f"{MODEL}:9" in done.stderr
    assert running.ids("api") == before
    assert f"TANDEM_MODEL={MODEL}:2\n" in (running.deploy / ".env").read_text()


def test_a_second_new_replica_that_fails_leaves_all_old_ones(running: Stack, digits: list[bytes]) -> None:
    """deploy/roll without a model: if the second new replica dies, the old ones go on, and no request is lost."""
    before = running.ids("api")
    with load(running.url, digits) as seen, ThreadPoolExecutor() as pool:
        rolling = pool.submit(running.roll, check=False)
        wait_until(lambda: len(running.ids("api")) == len(before) + 2, "a second new replica")
        newest, *_ = running.ids("api")  # `docker ps` lists the newest first
        docker("kill", newest)
        done = rolling.result()
        seen.wait_for(20)
    assert seen.failures == []
    assert done.returncode == 1
    assert done.stderr.startswith("Error: a new replica did not become healthy, the old ones serve ")
    assert running.ids("api") == before


def test_a_single_replica_is_rolled_without_a_lost_request(
    running: Stack, digits: list[bytes], second_version: str
) -> None:
    """While it is replaced, and in the seconds after, when nginx may still ask the address that is gone."""
    running.compose("up", "-d", TANDEM_API_REPLICAS="1")
    with load(running.url, digits) as seen:
        seen.wait_for(20)
        running.roll(f"{MODEL}:2")
        seen.wait_for(300)
    assert seen.failures == []
    assert len(running.ids("api")) == 1
    running.compose("up", "-d", TANDEM_API_REPLICAS="3")


def test_too_many_requests_of_one_address_are_refused(running: Stack) -> None:
    """nginx answers 429 with a reason to an address above TANDEM_PROXY_RATE."""
    running.compose("up", "-d", "--no-deps", "nginx", TANDEM_PROXY_RATE="1r/s")
    running.wait_healthy("nginx", 1)
    with httpx.Client() as client:
        answers = [client.get(f"{running.url}/livez") for _ in range(420)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert answers[-1].json()["error"]["reason"] == "over_share"
    assert answers[-1].headers["retry-after"] == "1"


def test_speaks_tls_with_a_certificate(running: Stack, tmp_path: Path, digits: list[bytes]) -> None:
    """With tls.crt and tls.key in TANDEM_TLS, nginx speaks TLS on its port."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    for path in (*folder.parents[:3], folder):
        path.chmod(0o755)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    running.compose("up", "-d", "--no-deps", "nginx", TANDEM_TLS=str(folder))
    running.wait_healthy("nginx", 1)
    url = f"https://localhost:{running.port}"
    assert httpx.post(f"{url}/classify", content=digits[0], verify=trusting).status_code == 200


def test_down_keeps_the_data(running: Stack, second_version: str, digits: list[bytes]) -> None:
    """`down` and `up`: the models, the log and the passwords are still there."""
    rows = int(running.sql("select count(*) from tandem_predictions"))
    running.compose("--profile", "monitoring", "down")
    assert docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={running.name}").stdout == ""
    running.compose("up", "-d")
    assert classify(running, digits[0]).json()["digest"] == second_version
    assert int(running.sql("select count(*) from tandem_predictions")) >= rows
