"""The whole road in one command: train, export, classify in bulk, serve, and prove that both roads agree.

Each step prints its command, so that you can repeat it. All files go to `.demo/`, which is emptied first.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path(".demo")
TEST_FOLDER = DEMO / "datasets" / "digits" / "test"
SERVER_LOG = DEMO / "service.log"
READY_WITHIN_S = 60
WANTED_ACCURACY = 0.97


def main() -> int:
    """Run the road from end to end and return the exit code of the first step that fails, else 0."""
    os.chdir(ROOT)
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    os.environ |= {"TANDEM_HOME": str(DEMO.resolve()), "BENTOML_DO_NOT_TRACK": "true"}
    print("The registry and the data of this demo lie in .demo/:")
    print("\n  $ export TANDEM_HOME=$PWD/.demo")
    started = time.monotonic()
    port = _free_port()
    try:
        _step(1, "Train a small CNN on handwritten digits", "tandem", "train", "digits", "--run", DEMO / "run")
        _step(2, "Export it to ONNX, into the registry", "tandem", "export", DEMO / "run", "--name", "digits")
        _step(
            3,
            "Classify the held-out images in bulk",
            *("tandem", "batch", TEST_FOLDER, "--model", "digits", "--output", DEMO / "out"),
        )
        _check_accuracy()
        with _service(4, "Serve the same artifact online", "bentoml", "serve", "--port", str(port)) as url:
            _step(
                5, "Prove that both give the same answers", "tandem", "parity", "digits", TEST_FOLDER, "--service", url
            )
    except subprocess.CalledProcessError as error:
        print(f"\nThe demo ended here: the command above exited with {error.returncode}.", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        return 130
    print(f"\nDone in {time.monotonic() - started:.0f} s.", end=" ")
    _show_what_next()
    return 0


def _step(number: int, title: str, *command: str | Path) -> None:
    _announce(number, title, *command)
    subprocess.run(_executable(*command), check=True)


def _check_accuracy() -> None:
    accuracy = json.loads((DEMO / "out" / "run.json").read_bytes())["accuracy"]
    if accuracy["correct"] < WANTED_ACCURACY * accuracy["images"]:
        sys.exit(
            f"\nThe demo ended here: the model is right on fewer than {WANTED_ACCURACY:.0%} of the held-out images."
        )


@contextmanager
def _service(number: int, title: str, *command: str | Path) -> Iterator[str]:
    """Run a server until the block ends; yield its URL once it is ready."""
    _announce(number, title, *command)
    url = f"http://127.0.0.1:{command[-1]}"
    with SERVER_LOG.open("wb") as log:
        server = subprocess.Popen(_executable(*command), stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(url, server, command)
        print(f"ready at {url}, logging to {SERVER_LOG}", flush=True)
        yield url
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, signum)
            server.wait(timeout=20)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], command: tuple[str | Path, ...]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    print(SERVER_LOG.read_text(errors="replace"), file=sys.stderr)
    raise subprocess.CalledProcessError(server.poll() or 1, [str(word) for word in command])


def _announce(number: int, title: str, *command: str | Path) -> None:
    print(f"\n{number}. {title}\n\n  $ {shlex.join(map(str, command))}\n", flush=True)


def _executable(*command: str | Path) -> list[str]:
    # The commands of this environment, also where it is not activated.
    return [str(Path(sys.executable).with_name(str(command[0]))), *map(str, command[1:])]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _show_what_next() -> None:
    environment = Path(sys.executable).parent
    print(f"""Go on from here:

  $ . {os.path.relpath(environment)}/activate
  $ export TANDEM_HOME=$PWD/.demo
  $ tandem models show digits                        # what was measured before it may serve
  $ tandem classify {next(TEST_FOLDER.rglob("*.png"))} --model digits
  $ tandem serve digits                              # the service and its page, on http://127.0.0.1:3000
  $ curl -F image=@{next(TEST_FOLDER.rglob("*.png"))} http://localhost:3000/classify
  $ tandem train FOLDER --val-fraction 0.2 && tandem export runs/FOLDER-1 --name NAME  # yours: FOLDER/CLASS/*.jpg""")


if __name__ == "__main__":
    sys.exit(main())
