"""Which entries of folders, archives and buckets are images to classify: the same rules for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from classifier.images import IMAGE_SUFFIXES
from classifier.images.names import reason_to_skip_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries of folders, tar files and buckets are taken.

    A pattern matches as in `find`: with a slash, the path below the input (`find -path`); otherwise the name
    (`find -name`).

    Attributes:
        include: patterns of images; empty for the suffixes of the accepted formats.
        exclude: patterns of images and folders to leave out.
        follow_symlinks: whether symbolic links in folders are followed. Those in tar files never are.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False

    def reason_to_skip(self, path: str, *, is_folder: bool = False) -> str | None:
        """Return why the entry at `path` is skipped; None if it is taken.

        Args:
            path: below the input. The folders above the entry are taken.
            is_folder: whether it is a folder, or anything else whose suffix says nothing.
        """
        name = path.rpartition("/")[2]
        if reason := reason_to_skip_name(name):
            return reason
        if any(_matches(path, name, pattern) for pattern in self.exclude):
            return "excluded"
        if is_folder:
            return None
        if self.include:
            return None if any(_matches(path, name, pattern) for pattern in self.include) else "not included"
        return None if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else "other suffix"

    def reason_to_skip_member(self, path: str, *, is_link: bool = False) -> str | None:
        """Return why the member of an archive is skipped, for its own name or for a folder above it; None if taken.

        Args:
            path: as the archive has it, also as `./a/b.png`.
            is_link: whether it is a symbolic link, whose suffix says nothing.
        """
        parts = [part for part in path.split("/") if part not in {"", "."}]
        for end in range(1, len(parts)):
            if reason := self.reason_to_skip("/".join(parts[:end]), is_folder=True):
                return reason
        return self.reason_to_skip("/".join(parts), is_folder=is_link)


SUFFIXES_ALONE = Selection()


def _matches(path: str, name: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern.removeprefix("./")) if "/" in pattern else fnmatchcase(name, pattern)
