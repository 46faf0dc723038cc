"""Every error that a user can cause. Each message is one sentence with the thing, the fact and the remedy.

TandemError                  commands print it and exit with 1
├── ImageError               an image can't be classified: a row with status `error`, HTTP 400
│   ├── NotAnImage           the format is not an accepted one: HTTP 415
│   ├── ImageTooLarge        it is over a limit on bytes, pixels or memory: HTTP 413
│   └── UnreadableImage      it is empty, truncated or corrupt, or its file can't be read
├── ArtifactError            a model's files can't be used or made
│   ├── DamagedArtifact      a file is missing, malformed, or does not match its digest
│   ├── UntrustedArtifact    it is not signed with the key that this machine trusts
│   ├── SelfTestFailed       the golden set gives other scores than expected
│   ├── NoEmbeddings         embeddings were requested, but the model was exported without them
│   └── ExportRefused        the graph can't be made, or differs from the network that it was made from
├── EngineError              a model can't be run
│   ├── EngineUnavailable    the requested engine, device or precision is not available on this machine
│   └── OutOfDeviceMemory    the model or a batch does not fit into the device's memory
├── RegistryError            a reference can't be resolved, or a registry can't be used
│   ├── InvalidReference     the reference is malformed
│   ├── ModelNotFound        the registry has no model with that name, version, alias or digest
│   ├── ModelNotNamed        no model was named, and the registry does not hold exactly one
│   ├── RegistryUnwritable   the registry is read-only, or its disk is full
│   ├── RegistryUnreachable  a remote registry does not answer, answers too late, or is not a registry
│   └── RegistryDenied       a remote registry refuses: credentials are missing or wrong, or permission is missing
├── DataError                an input can't be used: a folder, a data set, a run
├── OutputError              an output can't be written, or holds something else
├── TooManyFailures          a bulk run passed its limit on failed images
├── ServiceError             a service can't be reached, or does not answer as a Tandem service
├── LogError                 a prediction log can't be used, or its URL is malformed
├── ContainerError           a container image can't be built or pushed
└── InvalidSetting           an environment variable holds a value that can't be used
"""

from __future__ import annotations


class TandemError(Exception):
    """The base of all errors that a user can cause."""


class ImageError(TandemError):
    """An image can't be classified.

    Attributes:
        reason: the kind of failure in one word, for columns, metrics and tests; stable across releases.
    """

    reason = "image_error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class NotAnImage(ImageError):
    """The format is not an accepted one."""

    reason = "not_an_image"


class ImageTooLarge(ImageError):
    """An image is over a limit on bytes, pixels or memory."""

    reason = "too_large"


class UnreadableImage(ImageError):
    """An image is empty, truncated or corrupt, or its file can't be read."""

    reason = "unreadable"


class ArtifactError(TandemError):
    """A model's files can't be used or made."""


class DamagedArtifact(ArtifactError):
    """A file of an artifact is missing, malformed, or does not match its digest."""


class UntrustedArtifact(ArtifactError):
    """An artifact is not signed with the key that this machine trusts."""


class SelfTestFailed(ArtifactError):
    """The golden set gives other scores than expected."""


class NoEmbeddings(ArtifactError):
    """Embeddings were requested, but the model was exported without them."""


class ExportRefused(ArtifactError):
    """A graph can't be made, or differs from the network that it was made from."""


class EngineError(TandemError):
    """A model can't be run."""


class EngineUnavailable(EngineError):
    """The requested engine, device or precision is not available on this machine."""


class OutOfDeviceMemory(EngineError):
    """The model or a batch does not fit into the device's memory."""


class RegistryError(TandemError):
    """A reference can't be resolved, or a registry can't be used."""


class InvalidReference(RegistryError):
    """A reference is malformed."""


class ModelNotFound(RegistryError):
    """The registry has no model with that name, version, alias or digest."""


class ModelNotNamed(RegistryError):
    """No model was named, and the registry does not hold exactly one."""


class RegistryUnwritable(RegistryError):
    """A registry is read-only, or its disk is full."""


class RegistryUnreachable(RegistryError):
    """A remote registry does not answer, answers too late, or is not a registry."""


class RegistryDenied(RegistryError):
    """A remote registry refuses: credentials are missing or wrong, or permission is missing."""


class DataError(TandemError):
    """An input can't be used: a folder, a data set, a run."""


class OutputError(TandemError):
    """An output can't be written, or holds something else."""


class TooManyFailures(TandemError):
    """A bulk run passed its limit on failed images."""


class ServiceError(TandemError):
    """A service can't be reached, or does not answer as a Tandem service."""


class LogError(TandemError):
    """A prediction log can't be used, or its URL is malformed."""


class ContainerError(TandemError):
    """A container image can't be built or pushed."""


class InvalidSetting(TandemError):
    """An environment variable holds a value that can't be used."""
