"""Optional packages: which version is installed, and the command that installs a missing one."""

from __future__ import annotations


def install_extra(*extras: str) -> str:
    """Return the command that installs one of `extras`: `pip install -e '.[cpu]' in the clone of Tandem`.

    Never by name: the package `tandem` on the public index is another project's.
    """
    targets = " or ".join(f"'.[{extra}]'" for extra in extras)
    return f"pip install -e {targets} in the clone of Tandem"


def installed_version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed, as when Tandem runs from its sources."""
    from importlib import metadata  # noqa: PLC0415 # takes time that 'tandem --help' should not

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
