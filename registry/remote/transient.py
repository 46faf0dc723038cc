"""The failures that may heal, and are worth another try."""

from __future__ import annotations

from classifier.errors import DamagedArtifact, RegistryUnreachable


class TransientFailure(RegistryUnreachable):
    """A failure that may heal: a dropped connection, no answer in time, a registry that is overloaded.

    Attributes:
        retry_after_s: how long the registry asks to wait; None where it doesn't say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DamagedInTransit(DamagedArtifact):
    """What arrived is not what its digest says; it may be whole where it came from."""
