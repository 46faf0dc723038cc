"""Pin the newest patch of the base image in all Dockerfiles: `nox -s base [-- --mirror HOST/NAME]`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from classifier.errors import RegistryError
from registry.remote.repository import RemoteRepository

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(
    r"^ARG TANDEM_BASE_IMAGE=(?P<name>[^:@\s]+):(?P<series>\d+\.\d+)\.(?P<patch>\d+)(?P<variant>-[a-z-]+)"
    r"@(?P<digest>sha256:[0-9a-f]{64})$",
    re.MULTILINE,
)


def dockerfiles(root: Path) -> list[Path]:
    """Return the Dockerfiles below `root` that have a pin, outside hidden folders."""
    files = (path for path in sorted(root.rglob("Dockerfile*")) if path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return [path for path in visible if PIN.search(path.read_text())]


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
    return f"ARG TANDEM_BASE_IMAGE={pin['name']}:{found}@{manifest[0].digest}"


def update(root: Path, mirror: str | None = None) -> str:
    """Write the newest pin into the Dockerfiles below `root`, and return it.

    Raises:
        RegistryError: as `newest`.
    """
    files = dockerfiles(root)
    pin = PIN.search(files[0].read_text())
    assert pin is not None, "`dockerfiles` returns only those with a pin"
    host, _, name = (mirror or f"docker.io/{pin['name']}").partition("/")
    line = newest(pin, RemoteRepository(host, name))
    for file in files:
        file.write_text(PIN.sub(line, file.read_text()))
    return line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", help="where to look instead of Docker Hub: a repository with the same images")
    try:
        print(update(ROOT, parser.parse_args().mirror))
    except RegistryError as error:
        sys.exit(f"Error: {error}")
