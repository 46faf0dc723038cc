"""Save: from a model to plain files in a folder, for programs that read no registry."""

from __future__ import annotations

import errno
import hashlib
import shutil
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from classifier.errors import OutputError
from classifier.files import open_replacement
from classifier.progress import show_progress
from registry.local import LocalRegistry
from registry.oci.hashing import open_checked
from registry.opening import fetch_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from classifier.errors import DamagedArtifact
    from registry.oci.artifact import Artifact
    from registry.oci.manifest import Descriptor


def save(reference: str, folder: Path, registry: LocalRegistry) -> Artifact:
    """Write the files of the model that `reference` names into `folder`, and return the model.

    Each file appears under its name once all of it is written and checked against its digest. After an error, `folder`
    and the folders above it are as they were.

    Args:
        reference: as in `fetch_model`.
        folder: a new or empty one, or one that holds only files of this model; those are kept.
        registry: holds models and copies.

    Raises:
        RegistryError: the model can't be found or pulled.
        UntrustedArtifact: the trusted key didn't sign it.
        DamagedArtifact: a file is missing, doesn't match its digest, or has a name that leads out of `folder`.
        OutputError: `folder` can't be written, or holds something else.
    """
    artifact = fetch_model(reference, registry)
    layout = LocalRegistry.holding(artifact).layout
    files = artifact.files
    _check_names(artifact, files)
    with ExitStack() as undo, _explaining_errors(folder):
        _make_folder(folder, undo)
        missing = _missing_files(artifact, files, folder)
        with show_progress(
            sum(blob.size for blob in missing.values()), title=f"saving {artifact.reference}", unit="bytes"
        ) as show:
            for name, blob in missing.items():
                _undo_by(undo, (folder / name).unlink)
                with (
                    open_checked(layout.blob_path(blob.digest), blob, show, _damaged(artifact, name)) as source,
                    open_replacement(folder / name) as file,
                ):
                    shutil.copyfileobj(source, file)
        undo.pop_all()
    return artifact


def _check_names(artifact: Artifact, files: dict[str, Descriptor]) -> None:
    # A manifest may come from anybody: `../.bashrc` must not be written.
    for name in files:
        if name in ("", ".", "..") or "/" in name or not name.isprintable():
            raise artifact.damaged(f"'{name}' is not a file name")


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Make `folder` and the missing folders above it."""
    if folder.is_dir():
        return
    if folder.exists():
        raise OutputError(f"'{folder}' is not a folder: name a new or empty one")
    _make_folder(folder.parent, undo)
    folder.mkdir(exist_ok=True)
    _undo_by(undo, folder.rmdir)


def _missing_files(artifact: Artifact, files: dict[str, Descriptor], folder: Path) -> dict[str, Descriptor]:
    """Return the files that `folder` lacks.

    Raises:
        OutputError: it holds something else.
    """
    missing = dict(files)
    for path in sorted(folder.iterdir()):
        blob = missing.pop(path.name, None)
        if blob is None or not _matches(path, blob):
            raise OutputError(f"'{path}' is not a file of '{artifact.reference}': name a new or empty folder")
    return missing


def _matches(path: Path, blob: Descriptor) -> bool:
    if not path.is_file() or path.stat().st_size != blob.size:
        return False
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest


def _damaged(artifact: Artifact, name: str) -> Callable[[str], DamagedArtifact]:
    return lambda fact: artifact.damaged(f"{name}: {fact}")


def _undo_by(undo: ExitStack, remove: Callable[[], None]) -> None:
    def quietly() -> None:
        # What was never made needs no removal, and the first error is the one to report.
        with suppress(OSError):
            remove()

    undo.callback(quietly)


@contextmanager
def _explaining_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put that right"
        raise OutputError(
            f"'{folder}' can't be written ({error.strerror or error}): {remedy}, or name another folder"
        ) from error
