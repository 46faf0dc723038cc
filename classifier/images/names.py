"""Names that are not a user's images: hidden entries, and the thumbnails and rubbish that other systems keep."""

from __future__ import annotations

SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",  # Synology: thumbnails
        "#recycle",  # Synology, QNAP: deleted files
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",  # QNAP: thumbnails
        "__macosx",  # macOS: resource forks in archives
        "$recycle.bin",  # Windows: deleted files
        "system volume information",
        "lost+found",  # Linux file systems: fragments
    }
)
"""Folders of operating and storage systems, in lower case."""


def reason_to_skip_name(name: str) -> str | None:
    """Return why a file or folder of this name is skipped, as a short noun; None if it is taken.

    Training and the bulk run both apply it to every part of a path below the folder, archive or bucket that was named.
    """
    if name.startswith("."):
        return "hidden"
    return "system folder" if name.lower() in SYSTEM_FOLDERS else None
