"""Inference requests: JSON and binary, and what is refused, always with 4xx and a sentence in the protocol's form."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits import MAX_BODY_BYTES, MAX_IMAGES
from tests.service.edge.v2.conftest import (
    HEADER,
    assert_protocol_error,
    elements,
    image_tensor,
    infer,
    infer_binary,
    numbers,
    pixel_tensor,
    post,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tests.serving import Server


class TestJson:
    def test_images_as_base64(self, server: Server, images: list[bytes], scores: NDArray[np.float32]) -> None:
        """Base64 strings, flat or in the shape [N, 1], give the model's scores; without an id none is made up."""
        tensor = image_tensor(images)
        column = image_tensor(images, shape=[len(images), 1])
        nested = image_tensor(images, shape=[len(images), 1], data=[[text] for text in tensor["data"]])
        for each in (tensor, column, nested):
            answer = infer(server, each)
            assert numbers(answer).tobytes() == scores.tobytes()
            assert answer.headers["content-type"] == "application/json"
            assert [output["name"] for output in answer.json()["outputs"]] == ["scores", "labels"]
            assert "id" not in answer.json()

    def test_pixels(self, server: Server, pixels: NDArray[np.uint8], scores: NDArray[np.float32]) -> None:
        """Nested lists and one flat list are the same pixels."""
        for data in (pixels.tolist(), pixels.ravel().tolist()):
            assert numbers(infer(server, pixel_tensor(pixels, data=data), id="é")).tobytes() == scores.tobytes()
        one = infer(server, pixel_tensor(pixels[:1]), outputs=[{"name": "scores"}])
        assert numbers(one).tobytes() == scores[:1].tobytes()

    def test_integers_as_floats(self, server: Server, pixels: NDArray[np.uint8], scores: NDArray[np.float32]) -> None:
        """JSON doesn't tell 7 from 7.0, and some clients write every number so."""
        tensor = pixel_tensor(pixels, shape=[float(side) for side in pixels.shape], data=pixels.astype(float).tolist())
        assert numbers(infer(server, tensor)).tobytes() == scores.tobytes()
        asked = [{"name": "scores", "parameters": {"classification": 2.0}}]
        [output] = infer(server, tensor, outputs=asked).json()["outputs"]
        assert output["shape"] == [len(pixels), 2]

    def test_parameters_choose_the_form_of_outputs(self, server: Server, images: list[bytes]) -> None:
        """`binary_data_output` is for all outputs, `binary_data` overrides it for one."""
        answer = infer(
            server,
            image_tensor(images),
            id="7",
            parameters={"binary_data_output": True},
            outputs=[{"name": "labels", "parameters": {"binary_data": False}}, {"name": "scores"}],
        )
        head = json.loads(answer.content[: int(answer.headers[HEADER])])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert [list(output) for output in head["outputs"]] == [
            ["name", "datatype", "shape", "data"],
            ["name", "datatype", "shape", "parameters"],
        ]
        assert len(answer.content) - int(answer.headers[HEADER]) == len(images) * 10 * 4
        assert head["id"] == "7"

    def test_unknown_fields_are_ignored(self, server: Server, images: list[bytes]) -> None:
        """KServe's client repeats the model's name in the body."""
        assert infer(server, image_tensor(images), model_name="digits").status_code == 200


class TestImages:
    def test_a_bad_image_fails_the_request(self, server: Server, images: list[bytes]) -> None:
        """The protocol has no error for one image: the answer names its index and the reason, with its status."""
        for bad, status, reason in (
            (b"", 400, "empty"),
            (b"no image", 415, "not_an_image"),
            (images[0][:-30], 400, "unreadable"),
        ):
            said = "image 2 can't be classified", reason
            assert_protocol_error(infer(server, image_tensor([*images[:2], bad])), status, *said)
            sent = elements([*images[:2], bad])
            tensor = {"name": "image", "shape": [3], "datatype": "BYTES"}
            assert_protocol_error(infer_binary(server, tensor, sent), status, *said)
        assert_protocol_error(infer(server, image_tensor(images[:1], data=["no base64!"])), 400, "base64", "image 0")

    def test_they_are_counted(self, server: Server, images: list[bytes]) -> None:
        """The metrics know the endpoint and every image, bad ones by their reason."""

        def counted() -> dict[str, float]:
            lines = httpx.get(f"{server.url}/metrics").text.splitlines()
            return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

        infer(server, image_tensor([*images, b"no image"]))
        before = counted()
        infer(server, image_tensor([*images, b"no image"]))
        after = counted()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        assert grown['tandem_images_total{outcome="scored"}'] == len(images)
        assert grown['tandem_images_total{outcome="not_an_image"}'] == 1
        endpoint = 'endpoint="/v2/models/{name:model}/infer"'
        assert grown[f'tandem_requests_total{{{endpoint},reason="not_an_image",status="415"}}'] == 1

    def test_limits(self, server: Server, image: bytes) -> None:
        """128 images and one body's limit, refused before anything is read or allocated for them."""
        assert infer(server, image_tensor([image] * MAX_IMAGES)).status_code == 200
        assert_protocol_error(infer(server, image_tensor([image] * (MAX_IMAGES + 1))), 413, "at most 128")
        assert_protocol_error(post(server, b" " * (MAX_BODY_BYTES + 1)), 413, "limit")


BYTES_TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES"}


class TestTensors:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"name": "picture"}, "'image' or 'pixels'"),
            ({"datatype": "UINT8"}, "send BYTES"),
            ({"datatype": "bytes"}, "send BYTES"),
            ({"shape": []}, "[N] or [N, 1]"),
            ({"shape": [1, 2]}, "[N] or [N, 1]"),
            ({"shape": [1, 1, 1]}, "[N] or [N, 1]"),
            ({"shape": [-1]}, "[N] or [N, 1]"),
            ({"shape": [0]}, "at least one"),
            ({"shape": [2]}, "needs 2"),
            ({"shape": [1.5]}, "[N] or [N, 1]"),
            ({"shape": ["1"]}, "shape of 'image' can't be read"),
            ({"shape": [True]}, "shape of 'image' can't be read"),
            ({"shape": [1] * 1000}, "1000 characters"),
            ({"shape": 1}, "array"),
            ({"data": []}, "needs 1"),
            ({"data": "x"}, "can't be read"),
            ({"data": None}, "can't be read"),
            ({"data": [None]}, "can't be read"),
            ({"data": [[["x"]]]}, "can't be read"),
            ({"parameters": {}}, "content_type"),
            ({"parameters": {"content_type": "png"}}, "content_type"),
            ({"parameters": {"content_type": "base64", "zip": True}}, "'zip'"),
            ({"parameters": {"shared_memory_region": "x"}}, "'shared_memory_region'"),
            ({"parameters": {"binary_data_size": 3}}, "both"),
            ({"parameters": {"content_type": {}}}, "not an inference request"),
            ({"parameters": None}, "not an inference request"),
        ],
    )
    def test_wrong_images(self, server: Server, image: bytes, changes: dict[str, Any], said: str) -> None:
        """Name, datatype, shape, parameters and data are checked; the sentence says what is right."""
        assert_protocol_error(infer(server, image_tensor([image], **changes)), 400, said)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"datatype": "FP32"}, "send UINT8"),
            ({"shape": [1, 8, 8]}, "[N, 8, 8, 3]"),
            ({"shape": [1, 9, 8, 3]}, "[N, 8, 8, 3]"),
            ({"shape": [1, 3, 8, 8]}, "[N, 8, 8, 3]"),
            ({"shape": [2, 8, 8, 3]}, "needs 2"),
            ({"data": [0] * 191}, "needs 192"),
            ({"data": [0] * 193}, "needs 192"),
            ({"data": [256] * 192}, "can't be read"),
            ({"data": [-1] * 192}, "can't be read"),
            ({"data": [0.5] * 192}, "fractions"),
            ({"data": [float("nan")] * 192}, "not an inference request"),
            ({"data": ["0"] * 192}, "can't be read"),
            ({"data": [True] * 192}, "can't be read"),
            ({"data": [[[[0, 0]]]]}, "can't be read"),
            ({"data": [[]] * 1000}, "can't be read"),
            ({"data": {}}, "can't be read"),
            ({"parameters": {"content_type": "base64"}}, "content_type"),
        ],
    )
    def test_wrong_pixels(self, server: Server, changes: dict[str, Any], said: str) -> None:
        """Pixels have exactly the model's crop size and integers in 0…255, in the declared number."""
        tensor = pixel_tensor(np.zeros((1, 8, 8, 3), np.uint8), **changes)
        assert_protocol_error(infer(server, tensor), 400, said)

    @pytest.mark.parametrize("shape", [[2**62, 8, 8, 3], [10**30, 8, 8, 3], [MAX_IMAGES + 1, 8, 8, 3]])
    def test_huge_shapes(self, server: Server, shape: list[int]) -> None:
        """A shape alone costs nothing."""
        assert_protocol_error(
            infer(server, pixel_tensor(np.zeros((1, 8, 8, 3), np.uint8), shape=shape)), 413, "at most"
        )

    @pytest.mark.parametrize(
        ("tensor", "binary", "said"),
        [
            (BYTES_TENSOR, b"", "ends within element 0"),
            (BYTES_TENSOR, b"\0\0\0", "ends within element 0"),
            (BYTES_TENSOR, b"\2\0\0\0x", "ends within element 0"),
            (BYTES_TENSOR, b"\xff\xff\xff\xff", "ends within element 0"),
            (BYTES_TENSOR, b"\1\0\0\0xyz", "2 bytes after"),
            (BYTES_TENSOR | {"shape": [2]}, b"\1\0\0\0x", "ends within element 1"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": 4}}, b"\1\0\0\0x", "5 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": 6}}, b"\1\0\0\0x", "5 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": -5}}, b"\1\0\0\0x", "5 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": 5.5}}, b"\1\0\0\0x", "5 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": True}}, b"x", "1 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": "5"}}, b"\1\0\0\0x", "5 bytes follow"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": 10**30}}, b"\1\0\0\0x", ""),
            (BYTES_TENSOR | {"parameters": {}}, b"\1\0\0\0x", "neither"),
            (BYTES_TENSOR | {"parameters": {"binary_data_size": 5, "content_type": "base64"}}, b"\1\0\0\0x", "JSON"),
            ({"name": "pixels", "shape": [1, 8, 8, 3], "datatype": "UINT8"}, bytes(191), "needs 192"),
            ({"name": "pixels", "shape": [1, 8, 8, 3], "datatype": "UINT8"}, bytes(193), "needs 192"),
        ],
    )
    def test_sizes_that_lie(self, server: Server, tensor: dict[str, Any], binary: bytes, said: str) -> None:
        """Every size must be that of what was sent."""
        assert_protocol_error(infer_binary(server, tensor, binary), 400, said)


class TestBodies:
    @pytest.mark.parametrize("length", ["", "x", "-1", "+5", "1_0", "1.0", "0", "9" * 30, "9" * 5000, "²", "5, 5"])
    def test_lengths_that_are_none(self, server: Server, image: bytes, length: str) -> None:
        """The header must be the length of the JSON."""
        head = json.dumps({"inputs": [image_tensor([image])]}).encode()
        answer = httpx.post(
            f"{server.url}/v2/models/digits/infer", content=head, headers={HEADER: length.encode()}, timeout=60
        )
        assert_protocol_error(answer, 400)

    def test_length_that_is_missing_or_wrong(self, server: Server, image: bytes) -> None:
        """Without the header, binary data is not JSON; with a length that is off by one, the JSON is malformed."""
        binary = elements([image])
        head = json.dumps({"inputs": [BYTES_TENSOR | {"parameters": {"binary_data_size": len(binary)}}]}).encode()
        assert post(server, head + binary, {HEADER: str(len(head))}).status_code == 200
        assert_protocol_error(post(server, head + binary), 400, HEADER)
        assert_protocol_error(post(server, head), 400, HEADER)
        for length in (len(head) - 1, len(head) + 1, len(head) + len(binary)):
            assert_protocol_error(post(server, head + binary, {HEADER: str(length)}), 400)
        assert_protocol_error(post(server, head + binary, {HEADER: str(len(head + binary) + 1)}), 400, "at most")
        json_only = json.dumps({"inputs": [image_tensor([image])]}).encode()
        assert_protocol_error(post(server, json_only + b"xx", {HEADER: str(len(json_only))}), 400, "no input")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'"x"',
            b"\xff\xfe",
            b'{"inputs": null}',
            b'{"inputs": [null]}',
            b'{"inputs": [], "id": 7}',
            b'{"inputs": [], "id": "\\ud800"}',
            b"[" * 100_000,
            b'{"inputs": ' + b"[" * 100_000,
            b'{"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": ' + b"[" * 100_000,
            b'{"x": ' * 50_000,
            b"NaN",
            b"1e999",
        ],
    )
    def test_bodies_that_are_no_request(self, server: Server, body: bytes) -> None:
        """What is not JSON of the protocol is refused, however deep it is nested."""
        assert_protocol_error(post(server, body), 400)

    def test_number_of_inputs(self, server: Server, image: bytes, pixels: NDArray[np.uint8]) -> None:
        """A request has one input: not none, not the same twice, not both."""
        for inputs in ([], [image_tensor([image])] * 2, [image_tensor([image]), pixel_tensor(pixels)]):
            assert_protocol_error(infer(server, *inputs), 400, f"{len(inputs)} inputs")

    @pytest.mark.parametrize(
        ("message", "said"),
        [
            ({"outputs": [{"name": "logits"}]}, "'scores' or 'labels'"),
            ({"outputs": [{"name": "scores"}] * 2}, "twice"),
            ({"outputs": [{"name": "scores", "parameters": {"classification": 0}}]}, "1 or more"),
            ({"outputs": [{"name": "scores", "parameters": {"classification": -1}}]}, "1 or more"),
            ({"outputs": [{"name": "scores", "parameters": {"classification": 1.5}}]}, "1 or more"),
            ({"outputs": [{"name": "scores", "parameters": {"classification": True}}]}, "1 or more"),
            ({"outputs": [{"name": "scores", "parameters": {"classification": "3"}}]}, "1 or more"),
            ({"outputs": [{"name": "labels", "parameters": {"classification": 1}}]}, "classification"),
            ({"outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}, "true or false"),
            ({"outputs": [{"name": "scores", "parameters": {"shared_memory_region": "x"}}]}, "shared_memory_region"),
            ({"outputs": "scores"}, "not an inference request"),
            ({"parameters": {"binary_data_output": "yes"}}, "true or false"),
            ({"parameters": {"sequence_id": 1}}, "sequence_id"),
            ({"parameters": []}, "not an inference request"),
        ],
    )
    def test_outputs_and_parameters(self, server: Server, image: bytes, message: dict[str, Any], said: str) -> None:
        """An unknown output or parameter is refused: ignored, it would give another answer than was asked for."""
        assert_protocol_error(infer(server, image_tensor([image]), **message), 400, said)

    def test_compressed_body(self, server: Server) -> None:
        """It is refused, unread, whatever it would hold."""
        for encoding in ("gzip", "deflate", "br", "gzip, gzip", "x" * 1000):
            answer = post(server, b"\x1f\x8b", {"Content-Encoding": encoding})
            assert_protocol_error(answer, 415, "Content-Encoding")
            assert answer.headers["accept-encoding"] == "identity"
        assert_protocol_error(post(server, b"{}", {"Content-Encoding": "identity"}), 400)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class TestFuzz:
    @settings(max_examples=200, derandomize=True)
    @given(data=st.data())
    def test_no_message_makes_the_service_fail(
        self, server: Server, image: bytes, client: httpx.Client, data: st.DataObject
    ) -> None:
        """Right requests with any part replaced by anything get an answer or a 4xx in the protocol's form."""
        binary = data.draw(st.sampled_from([b"", elements([image]), bytes(192)]))
        tensor = data.draw(
            st.sampled_from(
                [
                    image_tensor([image]),
                    pixel_tensor(np.zeros((1, 8, 8, 3), np.uint8)),
                    BYTES_TENSOR | {"parameters": {"binary_data_size": len(binary)}},
                    {
                        "name": "pixels",
                        "shape": [1, 8, 8, 3],
                        "datatype": "UINT8",
                        "parameters": {"binary_data_size": len(binary)},
                    },
                ]
            )
        )
        message: dict[str, Any] = {"inputs": [dict(tensor)], "outputs": [{"name": "scores", "parameters": {}}]}
        for part in (message, message["inputs"][0], message["outputs"][0]):
            if data.draw(st.booleans()):
                name = data.draw(st.sampled_from([*part, "id", "parameters", "data"]))
                part[name] = data.draw(VALUES)
        head = json.dumps(message).encode()
        length = data.draw(st.sampled_from([len(head)] * 3 + [None, len(head) - 1, 0]) | st.integers(0, 2 * len(head)))
        answer = client.post(
            f"{server.url}/v2/models/digits/infer",
            content=head + binary,
            headers={} if length is None else {HEADER: str(length)},
        )
        assert_answered(answer)

    @settings(max_examples=200, derandomize=True)
    @given(data=st.data())
    def test_no_bytes_make_the_service_fail(
        self, server: Server, image: bytes, client: httpx.Client, data: st.DataObject
    ) -> None:
        """Right bodies with bytes changed, cut or added, neither."""
        binary = elements([image, image])
        head = json.dumps(
            {"inputs": [BYTES_TENSOR | {"shape": [2], "parameters": {"binary_data_size": len(binary)}}]}
        ).encode()
        body = bytearray(head + binary)
        for _ in range(data.draw(st.integers(0, 4))):
            # Mostly where the structure is: in the JSON and in the length of the first element.
            body[data.draw(st.integers(0, len(head) + 8) | st.integers(0, len(body) - 1))] = data.draw(
                st.integers(0, 255)
            )
        body = body[: data.draw(st.sampled_from([len(body)] * 3) | st.integers(0, len(body)))]
        length = data.draw(st.sampled_from([str(len(head))] * 3) | st.from_regex(r"[ -~]{0,6}", fullmatch=True))
        answer = client.post(
            f"{server.url}/v2/models/digits/infer",
            content=bytes(body) + data.draw(st.binary(max_size=4)),
            headers={HEADER: length, "Content-Type": data.draw(st.sampled_from(["application/json", "x/y", ""]))},
        )
        assert_answered(answer)


def assert_answered(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        assert answer.status_code in {400, 413, 415}, answer.text
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def test_length_field_is_little_endian(server: Server, image: bytes) -> None:
    """As tritonclient writes it; the other order is refused as a length beyond the body."""
    tensor = BYTES_TENSOR
    assert infer_binary(server, tensor, struct.pack("<I", len(image)) + image).status_code == 200
    assert_protocol_error(infer_binary(server, tensor, struct.pack(">I", len(image)) + image), 400, "little-endian")
