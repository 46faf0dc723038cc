"""What to type where a package is missing: Tandem's extras are defined in `pyproject.toml`."""

from __future__ import annotations


def install_extra(*extras: str) -> str:
    """Return the command that installs one of `extras`, `pip install -e '.[cpu]' in the clone of Tandem`.

    From the clone, never by name: Tandem is on no index, and the `tandem` on the public one is somebody else's.
    """
    wanted = " or ".join(f"'.[{extra}]'" for extra in extras)
    return f"pip install -e {wanted} in the clone of Tandem"
