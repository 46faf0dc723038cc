"""Models by reference, local or remote: a local registry that is an OCI image layout, and `open_model`."""

from registry.fetching import fetch_model
from registry.local import Added, LocalRegistry, Removed
from registry.oci.artifact import Artifact
from registry.oci.references import Reference
from registry.opening import open_model

__all__ = ["Added", "Artifact", "LocalRegistry", "Reference", "Removed", "fetch_model", "open_model"]
