"""Who may ask: keys, metrics, rates, browsers' pages, and lowered limits, at a real service."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from bentoml.exceptions import BentoMLException
from PIL import Image

from classifier.answers import Classification
from classifier.errors import ServiceError
from parity.client import ServiceClient
from service.access.keys import make_key
from service.access.options import Access
from service.edge.guarding import Guarded
from service.edge.refusals import BadRequest
from service.edge.stopping import stopping
from service.exchange import Exchange
from service.limits import OverShare
from service.preflight import check_options
from tests.service.conftest import assert_refused
from tests.service.edge.v2.conftest import assert_protocol_error
from tests.service.test_preflight import why_refused
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server

KEY, LINE = make_key("shop")
OTHER_KEY, OTHER_LINE = make_key("other-shop")
PAGE = "https://app.example"
WRONG_KEY = "tandem_a-key-that-nobody-has-made-000000000000"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(LINE)
    return file


@pytest.fixture(scope="module")
def locked(digits_home: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a service that needs a key, behind a named proxy on this machine, and open to one page."""
    with serving(
        tmp_path_factory.mktemp("locked"),
        home=digits_home,
        # Relative to where the command is started, which is the project's root.
        TANDEM_API_KEYS=os.path.relpath(key_file),
        TANDEM_TRUSTED_PROXIES="127.0.0.1",
        TANDEM_CORS_ORIGINS=f"{PAGE}, http://localhost:8080",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def bounded(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a service with lowered limits and a rate, behind a named proxy on this machine."""
    with serving(
        tmp_path_factory.mktemp("bounded"),
        home=digits_home,
        TANDEM_TRUSTED_PROXIES="127.0.0.1",
        TANDEM_RATE="6/min",
        TANDEM_MAX_BODY="100kB",
        TANDEM_MAX_IMAGES="3",
        TANDEM_MAX_PIXELS="10000",
    ) as server:
        yield server


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": f"Bearer {KEY}"},
            {"Authorization": f"bearer  {KEY}"},
            {"X-Api-Key": KEY},
            {"Authorization": "Basic dXNlcjpwYXNzd29yZA==", "X-Api-Key": KEY},
        ],
    )
    def test_a_key_admits(self, locked: Server, image: bytes, headers: dict[str, str]) -> None:
        """As bearer token or as X-Api-Key, which goes together with a proxy's own Authorization."""
        assert httpx.post(f"{locked.url}/classify", content=image, headers=headers).status_code == 200

    @pytest.mark.parametrize("path", ["/classify", "/predict", "/classify_batch", "/model", "/schema.json"])
    def test_without_one_nothing_is_answered(self, locked: Server, path: str) -> None:
        """The sentence says how to send a key, and the header names the scheme; a wrong key is told from none."""
        answer = httpx.post(f"{locked.url}{path}", content=b"x")
        assert "X-Api-Key" in assert_refused(answer, 401, "no_key")
        assert answer.headers["www-authenticate"] == 'Bearer realm="tandem"'
        for headers in ({"X-Api-Key": WRONG_KEY}, {"Authorization": f"Bearer {WRONG_KEY}"}, {"X-Api-Key": ""}):
            answer = httpx.post(f"{locked.url}{path}", content=b"x", headers=headers)
            assert_refused(answer, 401, "unknown_key")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        two = [("X-Api-Key", KEY), ("X-Api-Key", KEY)]
        assert_refused(httpx.post(f"{locked.url}{path}", headers=two), 401, "unknown_key")

    def test_the_protocol_s_paths_need_one(self, locked: Server) -> None:
        """They say so in the protocol's form."""
        for path in ("/v2", "/v2/models/digits/infer"):
            assert_protocol_error(httpx.post(f"{locked.url}{path}", content=b"x"), 401, "X-Api-Key")

    def test_a_refusal_counts_at_its_endpoint(self, locked: Server) -> None:
        """The metrics tell where keys are missing; what has no path of ours is unknown."""
        for path in ("classify", "v2/models/digits/infer", "nowhere"):
            httpx.post(f"{locked.url}/{path}")
        metrics = httpx.get(f"{locked.url}/metrics").text
        for endpoint in ("/classify", "/v2/models/{name:model}/infer", "unknown"):
            assert f'tandem_requests_total{{endpoint="{endpoint}",reason="no_key",status="401"}}' in metrics

    def test_unknown_paths_need_one(self, locked: Server) -> None:
        """A stranger can't find out which paths there are."""
        assert_refused(httpx.get(f"{locked.url}/nowhere"), 401, "no_key")
        assert_refused(httpx.get(f"{locked.url}/nowhere", headers={"X-Api-Key": KEY}), 404, "not_found")

    @pytest.mark.parametrize(
        "path",
        ["/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/docs.json", "/page/x"],
    )
    def test_probes_and_pages_need_none(self, locked: Server, path: str) -> None:
        """A probe has no key, and a browser loads the page before its user can type one."""
        assert httpx.get(f"{locked.url}{path}").status_code != 401

    @pytest.mark.parametrize(
        "path", ["/docs/../classify", "//classify", "/livez/../classify", "/%6dodel", "/page/../model"]
    )
    def test_no_way_around(self, locked: Server, path: str) -> None:
        """A path that is written in another way leads to nothing without a key."""
        with locked.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            status = int(connection.recv(65536).split()[1])
        assert status in {401, 404}

    def test_the_document_shows_the_model_to_those_with_a_key(self, locked: Server) -> None:
        """As `/model` does; others see the same paths."""
        open_, full = (httpx.get(f"{locked.url}/docs.json", headers=h) for h in ({}, {"X-Api-Key": KEY}))
        assert '"digits"' not in open_.text
        assert '"digits"' in full.text
        assert set(open_.json()["paths"]) == set(full.json()["paths"])

    def test_refused_before_the_body(self, locked: Server) -> None:
        """A stranger's body is not waited for."""
        with locked.connect() as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")

    def test_the_log_has_the_name_and_never_the_key(self, locked: Server, image: bytes) -> None:
        """Keys stay out of the log, wherever a client puts them; a line names the client."""
        for headers in ({"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"X-Request-Id": "named"}):
            httpx.post(f"{locked.url}/classify?key={KEY}", content=image, headers={**headers, "X-Api-Key": KEY})
        for headers in ({"X-Api-Key": WRONG_KEY}, {"Authorization": WRONG_KEY}):
            httpx.post(f"{locked.url}/classify?key={WRONG_KEY}", content=image, headers=headers)
        [line] = locked.logged(request_id="named")
        assert line["client"] == "shop"
        assert KEY not in locked.log
        assert WRONG_KEY not in locked.log

    def test_the_file_is_read_again(self, locked: Server, key_file: Path) -> None:
        """A new key works within seconds; one that was taken out does not."""
        headers = {"X-Api-Key": OTHER_KEY}
        assert_refused(httpx.get(f"{locked.url}/model", headers=headers), 401, "unknown_key")
        key_file.write_text(f"{LINE}\n{OTHER_LINE}")
        try:
            deadline = time.monotonic() + 20
            while httpx.get(f"{locked.url}/model", headers=headers).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            key_file.write_text(LINE)
        while httpx.get(f"{locked.url}/model", headers=headers).status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_bentoml_s_client_sends_it_as_its_token(self, locked: Server, image_file: Path) -> None:
        """BentoML's own client works with a key."""
        script = f"""
import bentoml, pathlib
with bentoml.SyncHTTPClient({locked.url!r}, token={KEY!r}) as client:
    print(client.classify(image=pathlib.Path({str(image_file)!r}))["model"])
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.startswith("digits@sha256:"), done.stderr

    def test_parity_s_client_sends_it(self, locked: Server, image: bytes) -> None:
        """`tandem parity` takes it from TANDEM_API_KEY, and says so without one."""
        with ServiceClient(locked.url, key=KEY) as client:
            assert isinstance(client.classify(image, top_k=1), Classification)
        for key in (None, WRONG_KEY):
            with ServiceClient(locked.url, key=key) as client, pytest.raises(ServiceError, match="set TANDEM_API_KEY"):
                client.classify(image, top_k=1)


class TestMetrics:
    def test_by_default_for_this_machine_and_for_keys(self, locked: Server) -> None:
        """Loopback reads them without a key; what a proxy passes on from elsewhere needs one."""
        assert httpx.get(f"{locked.url}/metrics").status_code == 200
        forwarded = {"X-Forwarded-For": "192.0.2.1"}
        assert_refused(httpx.get(f"{locked.url}/metrics", headers=forwarded), 401, "no_key")
        assert httpx.get(f"{locked.url}/metrics", headers={**forwarded, "X-Api-Key": KEY}).status_code == 200

    def test_without_keys_for_this_machine_alone(self, server: Server, bounded: Server) -> None:
        """Others learn which variable opens them, also behind a proxy that nobody has named."""
        answer = httpx.get(f"{bounded.url}/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
        assert "TANDEM_METRICS=open" in assert_refused(answer, 403, "metrics_closed")
        for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            answer = httpx.get(f"{server.url}/metrics", headers={header: "127.0.0.1"})
            assert_refused(answer, 403, "metrics_closed")
        assert httpx.get(f"{server.url}/metrics").status_code == 200

    @pytest.mark.parametrize(
        ("mode", "peer", "key", "reason"),
        [
            ("open", "192.0.2.1", "", None),
            ("key", "127.0.0.1", "", "no_key"),
            ("key", "127.0.0.1", WRONG_KEY, "unknown_key"),
            pytest.param(
                "key", "192.0.2.1", KEY, None, id="key-other-KEY"
            ),  # it is random: workers must agree on a name
            ("loopback", "::1", "", None),
            ("loopback", "192.0.2.1", "", "no_key"),
            pytest.param("loopback", "192.0.2.1", KEY, None, id="loopback-other-KEY"),
        ],
    )
    def test_modes(self, monkeypatch: pytest.MonkeyPatch, mode: str, peer: str, key: str, reason: str | None) -> None:
        """What the documentation says of each value of TANDEM_METRICS."""
        monkeypatch.setenv("TANDEM_METRICS", mode)
        monkeypatch.setenv("TANDEM_API_KEYS", LINE)
        if reason is None:
            assert guard("/metrics", peer, key).status == 0
        else:
            with pytest.raises(BadRequest) as refused:
                guard("/metrics", peer, key)
            assert refused.value.reason == reason


def guard(path: str, peer: str, key: str) -> Exchange:
    """Return the exchange of a request that `Guarded` has let through, with the variables that are set."""
    return ask(Guarded(pass_on, access=Access.from_environment()), path, peer, key)


async def pass_on(*_: object) -> None:
    pass


def ask(guarded: Guarded, path: str, peer: str, key: str) -> Exchange:
    """Return the exchange of a request that `guarded` has let through."""
    headers = [(b"x-api-key", key.encode())] if key else []
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": (peer, 1)}
    exchange = Exchange.begin(scope)
    anyio.run(guarded, scope, pass_on, pass_on)
    return exchange


@pytest.mark.parametrize(
    "path", ["/readyz", "/v2/health/ready", "/v2/models/a/b/ready", "/v2/models/a/versions/1/ready"]
)
def test_readiness_while_stopping(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Every path that says whether the service is ready says no, and when to ask again."""
    monkeypatch.setattr(stopping, "has_begun", True)
    with pytest.raises(BadRequest) as refused:
        guard(path, "192.0.2.1", "")
    assert (refused.value.status, refused.value.reason) == (503, "stopping")
    assert refused.value.headers == {"Retry-After": "1"}
    assert guard("/classify", "192.0.2.1", "").status == 0


def test_guessing_keys_has_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a known key is told to wait like a client; those with one are not held up."""
    monkeypatch.setenv("TANDEM_API_KEYS", LINE)
    monkeypatch.setenv("TANDEM_RATE", "2/min")
    guarded = Guarded(pass_on, access=Access.from_environment())
    for expected in (BadRequest, BadRequest, OverShare):
        with pytest.raises(expected):
            ask(guarded, "/classify", "192.0.2.1", WRONG_KEY)
    assert ask(guarded, "/classify", "192.0.2.1", KEY).client == "shop"


def test_whose_share_a_request_counts_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's, from whatever address it comes; without keys, the address's."""
    assert guard("/classify", "192.0.2.1", "").source == "192.0.2.1"
    monkeypatch.setenv("TANDEM_API_KEYS", f"{LINE},{OTHER_LINE}")
    sources = [guard("/classify", peer, key).source for peer in ("192.0.2.1", "::1") for key in (KEY, OTHER_KEY)]
    assert sources == ["key shop", "key other-shop"] * 2


class TestPages:
    def test_preflight_needs_no_key(self, locked: Server) -> None:
        """A browser asks without a key whether a page may send one."""
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
        answer = httpx.options(f"{locked.url}/classify", headers={"Origin": PAGE, **asked})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        [line] = locked.logged(request_id=answer.headers["x-request-id"])
        assert (line["method"], line["status"]) == ("OPTIONS", 200)
        assert 'endpoint="/classify",reason="",status="200"' in httpx.get(f"{locked.url}/metrics").text
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "x-api-key" in answer.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers

    def test_answers_and_refusals_can_be_read(self, locked: Server, image: bytes) -> None:
        """A page reads its answer, and why it got none, with the request's ID."""
        for headers in ({"X-Api-Key": KEY}, {}):
            answer = httpx.post(f"{locked.url}/classify", content=image, headers={"Origin": PAGE, **headers})
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]

    def test_other_pages_are_not_allowed(self, locked: Server, server: Server, image: bytes) -> None:
        """Another origin gets no permission, and neither does any if none was named."""
        asked = {"Access-Control-Request-Method": "POST"}
        for origin in ("https://evil.example", f"{PAGE}.evil.example", "null", PAGE.upper()):
            answer = httpx.options(f"{locked.url}/classify", headers={"Origin": origin, **asked})
            assert answer.status_code == 400
            assert "access-control-allow-origin" not in answer.headers
        for answer in (
            httpx.post(f"{server.url}/classify", content=image, headers={"Origin": PAGE}),
            httpx.options(f"{server.url}/classify", headers={"Origin": PAGE, **asked}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


class TestLimits:
    def test_rate(self, bounded: Server, image: bytes) -> None:
        """Each client has six requests a minute; the seventh learns when to come again, and others are answered."""

        def post(address: str) -> httpx.Response:
            return httpx.post(f"{bounded.url}/classify", content=image, headers={"X-Forwarded-For": address})

        assert [post("192.0.2.1").status_code for _ in range(6)] == [200] * 6
        refused = post("192.0.2.1")
        assert "6/min" in assert_refused(refused, 429, "over_share")
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert_refused(post("1.2.3.4, 192.0.2.1"), 429, "over_share")
        assert post("192.0.2.2").status_code == 200
        probe = {"X-Forwarded-For": "192.0.2.1"}
        assert all(httpx.get(f"{bounded.url}/readyz", headers=probe).status_code == 200 for _ in range(10))

    def test_lowered_limits(self, bounded: Server, image: bytes) -> None:
        """Bytes, pixels and images of a request have the limits that were set; the sentence names the number."""

        def post(path: str, **body: object) -> httpx.Response:
            headers = {"X-Forwarded-For": "192.0.2.3"}
            return httpx.post(f"{bounded.url}{path}", headers=headers, **body)  # type: ignore[arg-type]

        assert "100,000" in assert_refused(post("/classify", content=bytes(100_001)), 413, "too_large")
        file = io.BytesIO()
        Image.new("L", (101, 100)).save(file, "PNG")
        assert "10,000 pixels" in assert_refused(post("/classify", content=file.getvalue()), 413, "too_large")
        files = [("images", image)]
        assert "3" in assert_refused(post("/classify_batch", files=files * 4), 413, "too_many_images")
        assert post("/classify_batch", files=files * 3).status_code == 200


@pytest.mark.parametrize(
    ("variable", "value", "fact"),
    [
        pytest.param("TANDEM_API_KEYS", KEY, "can't be read", id="a-key-for-a-file"),
        pytest.param("TANDEM_API_KEYS", f"shop:{KEY}", "can't be read", id="a-name-and-a-key"),
        pytest.param("TANDEM_API_KEYS", f"shop sha256:{KEY}", "line 1 of TANDEM_API_KEYS", id="a-key-for-a-hash"),
        ("TANDEM_METRICS", "yes", "loopback, key, open"),
        ("TANDEM_METRICS", "key", "set TANDEM_API_KEYS"),
        ("TANDEM_RATE", "fast", "such as 100/s"),
        ("TANDEM_TRUSTED_PROXIES", "nginx", "not an address or a network"),
        ("TANDEM_CORS_ORIGINS", "https://app.example/", "which is not an origin"),
        ("TANDEM_MAX_BODY", "1GB", "built-in limit of 67,174,400"),
        ("TANDEM_MAX_IN_FLIGHT", "129", "over the limit of 128"),
        ("TANDEM_CLIENT_SHARE", "2", "not a part of 1"),
        ("TANDEM_DRAIN", "-1", "not a number of seconds"),
    ],
)
def test_malformed_variables(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fact: str) -> None:
    """One sentence names the variable and the remedy, and shows no key."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BentoMLException) as raised:
        check_options()
    assert variable in str(raised.value)
    assert fact in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_malformed_variable_ends_the_start(digits_home: Path, tmp_path: Path) -> None:
    """`bentoml serve` ends with that sentence, before a worker starts."""
    sentence = why_refused(digits_home, bentoml_home=tmp_path, TANDEM_API_KEYS="no-such-file")
    assert "TANDEM_API_KEYS" in sentence
    assert "no-such-file" not in sentence  # it could be a key
    assert "tandem keys new NAME" in sentence
