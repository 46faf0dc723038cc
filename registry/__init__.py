"""Models by reference, local or remote: a local registry that is an OCI image layout, and `open_model`."""

from registry.artifact import Artifact
from registry.fetching import fetch_model
from registry.local import Added, LocalRegistry, Removed
from registry.opening import open_model
from registry.references import Reference

__all__ = ["Added", "Artifact", "LocalRegistry", "Reference", "Removed", "fetch_model", "open_model"]
