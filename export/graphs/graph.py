"""torch → ONNX: one self-contained graph from the pixels of `classifier.images` to probabilities."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import msgspec
import onnx
import torch
from torch import nn

from classifier.errors import ExportRefused
from export.graphs.traces import find_traces, strip_traces
from training.data.tensors import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from classifier.types import Preprocessing

OPSET = 20
INPUT = "images"
OUTPUTS = ("logits", "probabilities")
EMBEDDINGS = "embeddings"

MAX_WEIGHT_BYTES = 2_000_000_000
"""A protobuf file ends at 2 GiB; ONNX keeps larger weights in a second file, but an artifact's graph is one file."""

_NORMALISING = ("Transpose", "Cast", "Div", "Sub")
_SAMPLE_BATCH = 2  # torch.export treats a dimension of 0 or 1 as constant


class EndToEnd(nn.Module):
    """`network` between normalisation and softmax: maps uint8 `[N, H, W, 3]` to logits and probabilities.

    With `head`, the name of the network's last layer, the input of that layer becomes a third output: the embeddings.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, head: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.head = head

    def forward(self, images_nhwc: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return float32 logits and probabilities `[N, classes]`, and with `head` embeddings `[N, width]`."""
        # Contiguous, because torch exports pooling of a channels-last view as a gather, which no engine can fuse.
        pixels = normalise(images_nhwc, self.preprocessing).contiguous()
        if self.head is None:
            logits = self.network(pixels)
            return logits, torch.softmax(logits, dim=1)
        taken: list[torch.Tensor] = []
        with self.network.get_submodule(self.head).register_forward_pre_hook(lambda _, inputs: taken.extend(inputs)):
            logits = self.network(pixels)
        return logits, torch.softmax(logits, dim=1), taken[-1]


def find_head(network: nn.Module, preprocessing: Preprocessing) -> str:
    """Return the name of the linear layer whose output is the logits; running the network once finds it.

    Raises:
        ExportRefused: there is no such layer, and so there are no embeddings.
    """
    given: dict[str, torch.Tensor] = {}
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(
                    module.register_forward_hook(lambda _, __, output, name=name: given.update({name: output}))
                )
        logits = network(torch.zeros(1, 3, preprocessing.crop_size, preprocessing.crop_size))
    for name, output in given.items():
        if output is logits:
            return name
    raise ExportRefused(
        "the network has no embeddings, because its logits don't come from a linear layer: export it without "
        "--embeddings, or train another --arch"
    )


def export_graph(
    network: nn.Module, labels: Sequence[str], preprocessing: Preprocessing, *, head: str | None = None
) -> bytes:
    """Return `network` as a checked ONNX file for any batch size, without traces of this machine.

    Args:
        network: in eval mode, on the CPU; maps normalised float32 `[N, 3, H, W]` to logits `[N, classes]`.
        labels: the classes, in the order of the logits. The file's metadata holds them, and `preprocessing`.
        preprocessing: its `crop_size` is the graph's H and W; its mean and std become part of the graph.
        head: the name of the last layer, from `find_head`, if the graph should output embeddings too.

    Raises:
        ExportRefused: the network's outputs don't match `labels`, ONNX can't express it, or it is over 2 GB.
    """
    size = preprocessing.crop_size
    sample = torch.zeros(_SAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    _check_network(network, len(labels), sample)
    model = _to_onnx(EndToEnd(network, preprocessing, head=head).eval(), sample)
    strip_traces(model)
    # Without the build (+cpu, +cu130), which depends on the machine.
    model.producer_version = torch.__version__.partition("+")[0]
    for key, value in (("labels", list(labels)), ("preprocessing", preprocessing)):
        model.metadata_props.add(key=key, value=msgspec.json.encode(value).decode())
    embedding_size = None if head is None else embedding_size_of(network, head)
    check_graph(model, size=size, classes=len(labels), embedding_size=embedding_size)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def embedding_size_of(network: nn.Module, head: str) -> int:
    """Return the size of an embedding of `network`, whose last layer is `head`."""
    layer = network.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def check_graph(model: onnx.ModelProto, *, size: int, classes: int, embedding_size: int | None = None) -> None:
    """Check that `model` is valid ONNX, has an artifact's inputs and outputs, and has no traces of this machine.

    Raises:
        ExportRefused: a check failed. For fp16 and int8, the message is written into the artifact.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportRefused(f"the exported graph is not valid ONNX: {error}") from error
    expected = {
        INPUT: (onnx.TensorProto.UINT8, ("N", size, size, 3)),
        **dict.fromkeys(OUTPUTS, (onnx.TensorProto.FLOAT, ("N", classes))),
        **({EMBEDDINGS: (onnx.TensorProto.FLOAT, ("N", embedding_size))} if embedding_size else {}),
    }
    found = {value.name: _signature(value) for value in (*model.graph.input, *model.graph.output)}
    if found != expected:
        raise ExportRefused(
            f"the exported graph has the inputs and outputs {found} where {expected} is wanted: "
            "the network's forward() must take any batch size"
        )
    if traces := find_traces(model):
        raise ExportRefused(
            f"the exported graph holds traces of this machine ({', '.join(traces)}): report it as a bug"
        )


def embedding_size_in(model: onnx.ModelProto) -> int | None:
    """Return the size of an embedding in a graph of `export_graph`; None if it has no embeddings."""
    for output in model.graph.output:
        if output.name == EMBEDDINGS:
            return int(output.type.tensor_type.shape.dim[1].dim_value)
    return None


def surroundings(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes around the network: the softmax first, then the nodes that normalise the pixels."""
    nodes = [node for node in model.graph.node if OUTPUTS[1] in node.output]
    # normalise() is one chain of nodes. A Shape node that also reads the images belongs to the network.
    name = INPUT
    while (node := _only_reader(model, name)) is not None and node.op_type in _NORMALISING:
        nodes.append(node)
        (name,) = node.output
    return nodes


def _only_reader(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    readers = [node for node in model.graph.node if name in node.input and node.op_type != "Shape"]
    return readers[0] if len(readers) == 1 else None


def _signature(value: onnx.ValueInfoProto) -> tuple[int, tuple[str | int, ...]]:
    tensor = value.type.tensor_type
    return tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)


def _check_network(network: nn.Module, classes: int, sample: torch.Tensor) -> None:
    weight_bytes = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise ExportRefused(
            f"the network's weights take {weight_bytes / 1e9:.1f} GB, but one ONNX file holds at most "
            f"{MAX_WEIGHT_BYTES / 1e9:.1f} GB: choose a smaller architecture"
        )
    with torch.inference_mode():
        shape = tuple(network(sample.permute(0, 3, 1, 2).float()).shape)
    if shape != (len(sample), classes):
        raise ExportRefused(
            f"for {len(sample)} images the network returns scores of shape {shape}, but {classes} labels need "
            f"({len(sample)}, {classes}): train it with these labels"
        )


def _to_onnx(module: EndToEnd, sample: torch.Tensor) -> onnx.ModelProto:
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                (sample,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[*OUTPUTS, *([EMBEDDINGS] if module.head else [])],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).partition("\n")[0].rstrip(".")
        raise ExportRefused(
            f"torch can't write the network as ONNX opset {OPSET} ({reason}): replace that operation in the network"
        ) from error
    assert program is not None  # with dynamo=True it never is
    return program.model_proto


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress torch's pages of output, logs and warnings during an export; the error's message has the gist."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
