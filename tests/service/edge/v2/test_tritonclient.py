"""Stock tritonclient, sync and asyncio, in its defaults: binary tensors in and out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from classifier.model import Model
    from tests.serving import Server


def image_input(images: list[bytes], *shape: int) -> triton.InferInput:
    array = np.array(images, object).reshape(shape or (len(images),))
    tensor = triton.InferInput("image", list(array.shape), "BYTES")
    return tensor.set_data_from_numpy(array)


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(address(server))
    yield client
    client.close()


def test_what_is_served(client: triton.InferenceServerClient, model: Model) -> None:
    """The client finds a live server with one ready model, its inputs and outputs, and the registry's version."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("cats")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    crop = model.config.preprocessing.crop_size
    assert client.get_model_metadata("digits", "1") == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, crop, crop, 3]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get_model_repository_index() == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]


def test_encoded_images(
    client: triton.InferenceServerClient, images: list[bytes], scores: NDArray[np.float32], model: Model
) -> None:
    """Images in, the model's scores out, bit for bit, with the label of each; [N, 1] means the same as [N]."""
    for tensor in (image_input(images), image_input(images, len(images), 1)):
        result = client.infer("digits", [tensor], request_id="42")
        assert result.as_numpy("scores").tobytes() == scores.tobytes()
        assert result.as_numpy("scores").shape == scores.shape
        best = [model.config.labels[index].encode() for index in scores.argmax(axis=1)]
        assert result.as_numpy("labels").tolist() == best
        response = result.get_response()
        assert (response["id"], response["model_name"], response["model_version"]) == ("42", "digits", "1")
        assert response["parameters"] == {"digest": model.digest, "engine": str(model.engine.info)}


@pytest.mark.parametrize("binary", [True, False])
def test_pixels(
    client: triton.InferenceServerClient, pixels: NDArray[np.uint8], scores: NDArray[np.float32], binary: bool
) -> None:
    """Decoded pixels go to the engine as they are, in binary or in JSON."""
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)
    asked = [triton.InferRequestedOutput("scores", binary_data=binary)]
    result = client.infer("digits", [tensor], "1", outputs=asked)
    assert result.as_numpy("scores").tobytes() == scores.tobytes()
    assert [output["name"] for output in result.get_response()["outputs"]] == ["scores"]


def test_classification(
    client: triton.InferenceServerClient, images: list[bytes], scores: NDArray[np.float32], model: Model
) -> None:
    """`class_count` gives score:index:label, the highest first, each score with all its bits; at most all classes."""
    for count, expected in ((3, 3), (99, 10)):
        asked = [triton.InferRequestedOutput("scores", class_count=count)]
        found = client.infer("digits", [image_input(images)], outputs=asked).as_numpy("scores")
        assert found.shape == (len(images), expected)
        for row, texts in zip(scores, found, strict=True):
            for text, prediction in zip(texts, model.top_k(row, count), strict=True):
                score, index, label = text.decode().split(":")
                assert (np.float32(score), int(index), label) == (prediction.score, prediction.index, prediction.label)


def test_refusals(client: triton.InferenceServerClient, images: list[bytes], image: bytes) -> None:
    """The client raises its own error with our sentence: a bad image, another model, a compressed body, a parameter."""

    def refusal(model: str = "digits", tensor: triton.InferInput | None = None, **options: Any) -> tuple[str, str]:
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer(model, [tensor or image_input(images)], **options)
        return caught.value.status(), caught.value.message()

    status, message = refusal(tensor=image_input([image, b"no image", b""]))
    assert status == "415"
    assert message.startswith("image 1 can't be classified (not_an_image): ")
    assert refusal(tensor=image_input([image, b""]))[0] == "400"
    assert refusal("cats") == ("404", "this service has the model 'digits', not 'cats'")
    assert "no version '2'" in refusal(model_version="2")[1]
    for algorithm in ("gzip", "deflate"):
        status, message = refusal(request_compression_algorithm=algorithm)
        assert status == "415"
        assert "send the body as it is" in message
    assert "takes no parameter 'priority'" in refusal(priority=1)[1]
    text = triton.InferInput("image", [1], "BYTES").set_data_from_numpy(np.array(["x"], object), binary_data=False)
    assert "base64" in refusal(tensor=text)[1]


def test_asyncio(server: Server, images: list[bytes], scores: NDArray[np.float32]) -> None:
    """The asyncio client gets the same, for 32 requests at a time; an answer may be asked for compressed."""

    async def main() -> None:
        async with triton_aio.InferenceServerClient(address(server)) as client:
            assert await client.is_model_ready("digits")
            results = await asyncio.gather(
                *(
                    client.infer(
                        "digits", [image_input(images)], request_id=str(i), response_compression_algorithm="gzip"
                    )
                    for i in range(32)
                )
            )
            for number, result in enumerate(results):
                assert result.as_numpy("scores").tobytes() == scores.tobytes()
                assert result.get_response()["id"] == str(number)
            with pytest.raises(triton.InferenceServerException, match="not_an_image"):
                await client.infer("digits", [image_input([b"no image"])])

    asyncio.run(main())
