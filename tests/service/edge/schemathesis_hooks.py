"""What schemathesis needs to know to make right requests: real images, and sizes that fit what was made.

JSON Schema can't say that a shape is that of the data beside it. Only parts that are right by the document are changed.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import math
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

from service.limits import MAX_IMAGES

LENGTH = "Inference-Header-Content-Length"


def _encoded(format: str, side: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


_TYPES = {
    f"image/{format.lower()}": [_encoded(format, side) for side in (1, 9)] for format in ("JPEG", "PNG", "WEBP", "BMP")
}
_IMAGES = [image for images in _TYPES.values() for image in images]

for _type, _images in _TYPES.items():
    schemathesis.openapi.media_type(_type, st.sampled_from(_images))
schemathesis.openapi.format("binary", st.sampled_from(_IMAGES))
schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(image).decode() for image in _IMAGES]))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Make the sizes of a right inference request those of its data; wrong requests go as they are."""
    if not case.path.endswith("/infer") or case.meta is None or case.meta.generation.mode.is_negative:
        return
    headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != LENGTH.lower()}
    if case.media_type == "application/octet-stream":
        binary = len(_IMAGES[0]).to_bytes(4, "little") + _IMAGES[0]
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(binary)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        case.body, headers[LENGTH] = head + binary, str(len(head))
    else:
        case.body = copy.deepcopy(case.body)
        for tensor in case.body["inputs"]:
            _fit(tensor)
    case.headers = headers


def _fit(tensor: dict[str, Any]) -> None:
    if tensor["name"] == "image":
        tensor["shape"][0] = len(tensor["data"])
    elif isinstance(tensor["data"][0], list):
        tensor["shape"][0] = min(len(tensor["data"]), MAX_IMAGES)
        del tensor["data"][MAX_IMAGES:]
    else:
        size = int(math.prod(tensor["shape"]))
        tensor["data"] = (tensor["data"] * size)[:size]
