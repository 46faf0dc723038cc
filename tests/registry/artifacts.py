"""Small artifacts for tests of the registry: a real config, bytes instead of a graph, and keys to sign with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN, MODEL
from classifier.types import AllowedPrecision, ModelConfig, Preprocessing, to_json
from registry.oci.manifest import Descriptor, describe

if TYPE_CHECKING:
    from pathlib import Path

    from registry import LocalRegistry

CONFIG_OF_DIGITS = ModelConfig(
    name="digits",
    architecture="small_cnn",
    labels=("0", "1", "2"),
    preprocessing=Preprocessing(resize_size=8, crop_size=8),
    allowed=(AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL),),
    opset=20,
)


def make_files(graph: str | bytes = b"graph") -> dict[str, bytes]:
    """Return the files of an artifact; each `graph` makes another one."""
    graph = graph.encode() if isinstance(graph, str) else graph
    return {
        MODEL: graph,
        CONFIG: to_json(CONFIG_OF_DIGITS),
        EVALUATION: b"{}",
        GOLDEN: b"golden images",
        CARD: b"# digits\n",
    }


def blob_path(registry: LocalRegistry, digest: str) -> Path:
    """Return the file of a blob."""
    return registry.root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def put(registry: LocalRegistry, entry: str | None, manifest: object, media_type: str) -> Descriptor:
    """Store a manifest under any name, as another tool might."""
    data = to_json(manifest)
    descriptor = describe(data, media_type)
    blob_path(registry, descriptor.digest).write_bytes(data)
    index = json.loads((registry.root / "index.json").read_bytes())
    annotations = {} if entry is None else {"org.opencontainers.image.ref.name": entry}
    index["manifests"].append(
        {"mediaType": media_type, "digest": descriptor.digest, "size": len(data), "annotations": annotations}
    )
    (registry.root / "index.json").write_bytes(json.dumps(index).encode())
    return descriptor


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
