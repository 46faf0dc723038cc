"""Pin the newest patch of the images' base wherever it is named: `nox -s base [-- --mirror HOST/NAME]`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from classifier.errors import RegistryError
from registry.remote.repository import RemoteRepository

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(
    r"\b(?P<name>python):(?P<series>\d+\.\d+)\.(?P<patch>\d+)(?P<variant>-slim-[a-z]+)@(?P<digest>sha256:[0-9a-f]{64})\b"
)
KINDS = ("Dockerfile*", "*.py", "*.yaml", "*.yml")


def pinning(root: Path) -> list[Path]:
    """Return the files below `root` that name the base with its digest, outside of `examples` and hidden folders."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "examples" and not name.startswith(".")]
        found += [Path(folder, name) for name in files if any(fnmatch(name, kind) for kind in KINDS)]
    return sorted(path for path in found if PIN.search(path.read_text()))


def newest(pin: re.Match[str], repository: RemoteRepository) -> str:
    """Return the pin of the newest patch in `repository`, of the series and variant of `pin`.

    Raises:
        RegistryError: the repository can't be read, or lacks such an image.
    """
    tag = re.compile(rf"{re.escape(pin['series'])}\.(\d+){re.escape(pin['variant'])}")
    patches = [int(match[1]) for match in map(tag.fullmatch, repository.tags()) if match is not None]
    found = f"{pin['series']}.{max(patches, default=int(pin['patch']))}{pin['variant']}"
    # Of a tag for several platforms this is the index: one pin for all of them.
    manifest = repository.find_manifest(found)
    if manifest is None:
        raise RegistryError(f"{repository} has no image {found}: name another repository with --mirror")
    return f"{pin['name']}:{found}@{manifest[0].digest}"


def update(root: Path, mirror: str | None = None) -> str:
    """Write the newest pin into the files below `root` that have one, and return it.

    Raises:
        RegistryError: as `newest`.
    """
    files = pinning(root)
    pin = PIN.search(files[0].read_text())
    assert pin is not None, "`pinning` returns only files with a pin"
    host, _, name = (mirror or f"docker.io/{pin['name']}").partition("/")
    newest_pin = newest(pin, RemoteRepository(host, name))
    for file in files:
        file.write_text(PIN.sub(newest_pin, file.read_text()))
    return newest_pin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", help="where to look instead of Docker Hub: a repository with the same images")
    try:
        print(update(ROOT, parser.parse_args().mirror))
    except RegistryError as error:
        sys.exit(f"Error: {error}")
