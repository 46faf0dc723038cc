"""Manifests: the files of a model as one OCI artifact in the CNCF ModelPack format.

Formats: OCI image specification 1.1 (manifest, index, descriptor), CNCF ModelPack specification (`spec.md`,
`config.md`, `annotations.md`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence  # noqa: TC003 - msgspec reads the annotations
from typing import Any

import msgspec

from classifier.artifact import CARD, CONFIG, EVALUATION, FILES, GOLDEN
from classifier.errors import DamagedArtifact
from classifier.types import ModelConfig, from_json, to_json

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
_LAYER_TYPES = {
    CONFIG: "application/vnd.cncf.model.weight.config.v1.raw",
    EVALUATION: "application/vnd.cncf.model.doc.v1.raw",
    GOLDEN: "application/vnd.cncf.model.dataset.v1.raw",
    CARD: "application/vnd.cncf.model.doc.v1.raw",
}

FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
"""`oras pull` restores a file only if its layer has this annotation."""

_MODELPACK_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}


# msgspec structs rather than dataclasses: OCI writes fields in camel case and omits empty ones.
class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A blob's type, size and digest.

    It has all fields of the specification, so that index entries of other tools are kept whole.
    """

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}
    data: str = ""
    platform: Mapping[str, Any] = {}
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One artifact: its config blob, and a layer for each file."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = {}

    @property
    def files(self) -> dict[str, Descriptor]:
        """The layers by file name, in the manifest's order."""
        return {layer.annotations[FILEPATH]: layer for layer in self.layers if FILEPATH in layer.annotations}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that the manifest lists, each digest once: layers, then config."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())

    @property
    def kind(self) -> str:
        """The artifact type, else the config's media type, as the specification defines it."""
        return self.artifact_type or self.config.media_type

    @property
    def is_model(self) -> bool:
        """Whether this is a model that Tandem can read, not an image or another kind of artifact."""
        return self.artifact_type == ARTIFACT_TYPE and CONFIG in self.files


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The `index.json` of an OCI layout: a descriptor for each tag."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = {}


def describe(data: bytes, media_type: str, **fields: Any) -> Descriptor:
    """Return the descriptor of `data`."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Descriptor(media_type=media_type, digest=digest, size=len(data), **fields)


def pack(files: Mapping[str, bytes]) -> tuple[Descriptor, dict[str, bytes]]:
    """Return the descriptor of the manifest that lists `files`, and every blob by digest.

    The same files give the same bytes, at any time, on any machine and in any order.

    Raises:
        DamagedArtifact: `config.json` is missing or malformed.
    """
    if CONFIG not in files:
        raise DamagedArtifact(f"an artifact needs a {CONFIG}, this one has {', '.join(files) or 'no file'}")
    config = parse_config(files[CONFIG], "the new artifact")
    names = [name for name in FILES if name in files] + sorted(set(files) - set(FILES))
    layers = [
        describe(files[name], _LAYER_TYPES.get(name, _WEIGHT_TYPE), annotations={FILEPATH: name, TITLE: name})
        for name in names
    ]
    modelpack = _modelpack_config(config, layers)
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=describe(modelpack, CONFIG_TYPE),
        layers=tuple(layers),
    )
    manifest_bytes = to_json(manifest)
    descriptor = describe(manifest_bytes, MANIFEST_TYPE, artifact_type=ARTIFACT_TYPE)
    blobs = {layer.digest: files[name] for name, layer in zip(names, layers, strict=True)}
    return descriptor, {**blobs, manifest.config.digest: modelpack, descriptor.digest: manifest_bytes}


def parse_config(data: bytes, artifact: str) -> ModelConfig:
    """Parse a `config.json`.

    Raises:
        DamagedArtifact: `data` can't be parsed; the message names `artifact`.
    """
    try:
        return from_json(data, ModelConfig)
    except ValueError as error:
        raise DamagedArtifact(f"{CONFIG} of {artifact} can't be used: {error}") from error


def _modelpack_config(config: ModelConfig, layers: Sequence[Descriptor]) -> bytes:
    """Return the config blob that ModelPack tools read, without `createdAt` so that it is deterministic."""
    precisions = dict.fromkeys(_MODELPACK_PRECISIONS[allowed.precision] for allowed in config.allowed)
    return to_json(
        {
            "descriptor": {"family": config.architecture, "name": config.name},
            "config": {
                "architecture": config.architecture,
                "format": "onnx",
                "precision": ",".join(precisions),
                "capabilities": {"inputTypes": ["image"], "outputTypes": ["other"]},
            },
            # A raw layer is its own uncompressed content.
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        }
    )
