"""Optional packages: which version is installed, and the command that installs a missing one."""

from __future__ import annotations

import os

IMAGE = "TANDEM_IMAGE"
"""The environment variable that Tandem's images set: `batch` or `service`."""


def install_extra(*extras: str, instead_of: str = "") -> str:
    """Return the remedy for a missing package, a clause such as `pip install -e '.[cpu]' in the clone of Tandem`.

    Never by name: the package `tandem` on the public index is another project's. In one of Tandem's images, where
    nothing can be installed, the remedy is another image.

    Args:
        extras: the extras of Tandem that bring the package; one of them is enough.
        instead_of: installed packages, separated by spaces, that the package can't stand beside.
    """
    if os.environ.get(IMAGE):
        targets = " or ".join(f"'{extra}'" for extra in extras)
        return (
            f"use an image with the extra {targets}: docs/deploy/images.md in the clone of Tandem says how to build it"
        )
    targets = " or ".join(f"'.[{extra}]'" for extra in extras)
    uninstall = f"pip uninstall {instead_of}, then " if instead_of else ""
    return f"{uninstall}pip install -e {targets} in the clone of Tandem"


def installed_version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed, as when Tandem runs from its sources."""
    from importlib import metadata  # noqa: PLC0415 # takes time that 'tandem --help' should not

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
