"""Models by reference: a local registry that is an OCI image layout, and `open_model`."""

from registry.artifact import Artifact
from registry.local import Added, LocalRegistry, Removed
from registry.opening import open_model
from registry.references import Reference

__all__ = ["Added", "Artifact", "LocalRegistry", "Reference", "Removed", "open_model"]
