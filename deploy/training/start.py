"""The start of the notebook's container: the example, the user's libraries, the token, then JupyterLab.

Arguments are a command to run in place of JupyterLab: `docker run … tandem-notebook tandem doctor`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).with_name("notebook.ipynb")
REQUIREMENTS = Path("/requirements.txt")
JUPYTERLAB = ["jupyter", "lab"]


def main() -> None:
    """Become JupyterLab, or the command in the arguments."""
    # Process 1 ignores a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.umask(0o002)  # Another user id of group 0 can go on with these files.
    place_example(Path.home())
    separate_users(Path.home())
    install_libraries()
    use_token()
    command = sys.argv[1:] or JUPYTERLAB
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is meant
    except OSError as error:
        sys.exit(f"Error: '{command[0]}' can't be run: {error.strerror}")


def place_example(work: Path) -> None:
    """Copy the example notebook into `work`, unless the user has a file of that name."""
    try:
        tempfile.TemporaryFile(dir=work).close()
        if not (copy := work / EXAMPLE.name).exists():
            shutil.copyfile(EXAMPLE, copy)
    except OSError as error:
        sys.exit(
            f"Error: {work} can't be written by user {os.getuid()} of group {os.getgid()} ({error.strerror}): mount a "
            "volume and leave out '--user' or use group 0, or mount a folder and give its owner as '--user'"
        )


def separate_users(work: Path) -> None:
    """Give each user id its own settings in `work`: Jupyter and IPython make folders that no other one may read."""
    own = work / ".jupyter" / str(os.getuid())
    own.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "IPYTHONDIR": str(own / "ipython"),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
    }


def install_libraries() -> None:
    """Install the libraries in /requirements.txt into the user's site-packages, which lie on the volume."""
    if not REQUIREMENTS.exists():
        return
    if not REQUIREMENTS.is_file():
        # Docker makes a folder where the file to mount is missing.
        sys.exit(f"Error: {REQUIREMENTS} is a folder: mount a file, and check that its path on the host is right")
    print(f"Installing the libraries in {REQUIREMENTS}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--user", "--quiet", "--requirement", str(REQUIREMENTS)]
    done = subprocess.run(pip, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        facts = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        fact = facts[0].rstrip(".") if facts else f"pip exited with {done.returncode}"
        sys.exit(
            f"Error: the libraries in {REQUIREMENTS} can't be installed beside the image's own: {fact}; correct the "
            "file, or the network if pip reached no index"
        )


def use_token() -> None:
    """Set JUPYTER_TOKEN from the file in JUPYTER_TOKEN_FILE; without a token, JupyterLab makes one and prints it."""
    token = os.environ.pop("JUPYTER_TOKEN", "")
    if file := os.environ.pop("JUPYTER_TOKEN_FILE", ""):
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            fact = error.strerror if isinstance(error, OSError) else "it is not text"
            sys.exit(
                f"Error: the token in JUPYTER_TOKEN_FILE={file} can't be read by user {os.getuid()} of group "
                f"{os.getgid()} ({fact}): mount a file that this user can read"
            )
        if not token:
            sys.exit(f"Error: JUPYTER_TOKEN_FILE={file} is empty: write a token into it")
    if token:
        os.environ["JUPYTER_TOKEN"] = token


if __name__ == "__main__":
    main()
