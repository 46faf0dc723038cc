"""The JSON of the Open Inference Protocol. Field names and class names are public."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

Parameters = dict[str, str | int | float | bool]

# What the service answers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """The answer of `GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """An input or an output of the model.

    Attributes:
        shape: -1 stands for any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """The answer of `GET /v2/models/{name}`.

    Attributes:
        versions: that the served digest has in the registry; absent if it has none.
    """

    name: str
    versions: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLive:
    """The answer of `GET /v2/health/live`."""

    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReady:
    """The answer of `GET /v2/health/ready`."""

    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReady:
    """The answer of `GET /v2/models/{name}/ready`."""

    name: str
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryModel:
    """An entry of the answer of `POST /v2/repository/index`."""

    name: str
    version: str | msgspec.UnsetType = msgspec.UNSET
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    """An output of `InferResponse`.

    Attributes:
        data: the elements in row-major order; absent if they follow the JSON as `binary_data_size` bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    data: list[float | str] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """The answer of `POST /v2/models/{name}/infer`.

    Attributes:
        id: the request's, if it had one.
        parameters: `digest`, the model's, and `engine`, what ran it.
    """

    model_name: str
    model_version: str | msgspec.UnsetType = msgspec.UNSET
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters
    outputs: tuple[OutputTensor, ...]


# What clients send


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """An input of `InferRequest`; its data is decoded once datatype and shape are known to be right.

    The shape is not decoded here either: a long one would take many times the bytes that were sent.
    """

    name: str
    datatype: str
    shape: msgspec.Raw
    parameters: Parameters = field(default_factory=dict)
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output that a client asks for."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """The body of `POST /v2/models/{name}/infer`, or its part before the binary tensors."""

    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters = field(default_factory=dict)
    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
