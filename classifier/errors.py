"""Every error that a user can cause. Each message names the thing, the fact and the remedy, in one sentence.

TandemError                  commands print it and exit with 1
├── ImageError               one image; a row with status `error`, HTTP 400
│   ├── NotAnImage           not a format that is accepted, HTTP 415
│   ├── ImageTooLarge        over a limit on bytes or pixels, HTTP 413
│   └── UnreadableImage      empty, truncated or corrupt, or a file that can't be read
├── ArtifactError            the files of a model
│   ├── DamagedArtifact      a file is missing, malformed, or not what its digest says
│   ├── UntrustedArtifact    not signed by the key that this machine trusts
│   ├── SelfTestFailed       the golden set gives other scores
│   ├── NoEmbeddings         embeddings were asked for, and the model was exported without
│   └── ExportRefused        the graph can't be made, or differs from the network it was made from
├── EngineError              what runs a model
│   ├── EngineUnavailable    the engine, device or precision that was asked for can't be had
│   └── OutOfDeviceMemory    the device's memory does not hold one batch
├── RegistryError            references and the registry
│   ├── InvalidReference     a reference that can't be read
│   ├── ModelNotFound        nothing has that name, version, alias or digest
│   ├── ModelNotNamed        no model was named, and there isn't exactly one
│   ├── RegistryUnwritable   a write to a registry that can't be written
│   ├── RegistryUnreachable  a remote registry that doesn't answer, not in time, or not as a registry does
│   └── RegistryDenied       a remote registry that refuses: no credentials, wrong ones, or no permission
├── DataError                an input: a folder, a data set, a run
├── OutputError              an output: unwritable, or holding something else
├── TooManyFailures          a bulk run was stopped by a limit on failed images
├── ServiceError             a service that was called as a client
└── ContainerError           an image that can't be built or pushed
"""

from __future__ import annotations


class TandemError(Exception):
    """The base of all errors that a user can cause."""


class ImageError(TandemError):
    """An image that can't be classified.

    Attributes:
        reason: the kind of failure in one word, stable across releases: for columns, metrics and tests.
    """

    reason = "image_error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class NotAnImage(ImageError):
    """Bytes that are not of an accepted format."""

    reason = "not_an_image"


class ImageTooLarge(ImageError):
    """An image over a limit on bytes or pixels."""

    reason = "too_large"


class UnreadableImage(ImageError):
    """An image that is empty, truncated or corrupt, or a file that can't be read."""

    reason = "unreadable"


class ArtifactError(TandemError):
    """The files of a model can't be used or made."""


class DamagedArtifact(ArtifactError):
    """A file of an artifact is missing, malformed, or not what its digest says."""


class UntrustedArtifact(ArtifactError):
    """An artifact that isn't signed by the key that this machine trusts."""


class SelfTestFailed(ArtifactError):
    """The golden set gives other scores than it should."""


class NoEmbeddings(ArtifactError):
    """A model that was exported without embeddings was asked for them."""


class ExportRefused(ArtifactError):
    """A graph can't be made, or differs from the network that it was made from."""


class EngineError(TandemError):
    """A model can't be run."""


class EngineUnavailable(EngineError):
    """The engine, device or precision that was asked for can't be had on this machine."""


class OutOfDeviceMemory(EngineError):
    """The device's memory does not hold one batch."""


class RegistryError(TandemError):
    """A reference can't be resolved, or a registry can't be used."""


class InvalidReference(RegistryError):
    """A reference that can't be read."""


class ModelNotFound(RegistryError):
    """Nothing in the registry has that name, version, alias or digest."""


class ModelNotNamed(RegistryError):
    """No model was named, and the registry doesn't hold exactly one."""


class RegistryUnwritable(RegistryError):
    """A write to a registry that can't be written: read-only, or its disk is full."""


class RegistryUnreachable(RegistryError):
    """A remote registry that doesn't answer, doesn't answer in time, or doesn't answer as a registry does."""


class RegistryDenied(RegistryError):
    """A remote registry that refuses what was asked: no credentials, wrong ones, or no permission."""


class DataError(TandemError):
    """An input that can't be used: a folder, a data set, a run."""


class OutputError(TandemError):
    """An output that can't be written, or that holds something else."""


class TooManyFailures(TandemError):
    """More images of a bulk run failed than it was told to bear."""


class ServiceError(TandemError):
    """A service that can't be reached, or that answers what a Tandem service wouldn't."""


class ContainerError(TandemError):
    """An image that can't be built or pushed."""
