"""Models by reference, local or remote: find, open, push, pull, save, sign and attach."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from registry.attaching import attach_file, sign
from registry.local import Added, LocalRegistry, Removed
from registry.oci.artifact import Artifact
from registry.oci.references import Reference
from registry.opening import fetch_model, find_model, open_model
from registry.saving import save

if TYPE_CHECKING:
    from registry.pulling import pull
    from registry.pushing import Pushed, push

__all__ = [
    "Added",
    "Artifact",
    "LocalRegistry",
    "Pushed",
    "Reference",
    "Removed",
    "attach_file",
    "fetch_model",
    "find_model",
    "open_model",
    "pull",
    "push",
    "save",
    "sign",
]

# Imported on first use: HTTP and TLS, which few commands need.
_LATE = {"pull": "registry.pulling", "push": "registry.pushing", "Pushed": "registry.pushing"}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_LATE[name]), name)
