"""Push a first model to a registry that has none.

| variable | |
|---|---|
| TANDEM_SEED_TARGET | the model's place in the registry: HOST/NAME, or HOST/NAME:VERSION |
| TANDEM_SEED_MODEL | the model in the TANDEM_HOME mounted at /tandem; the image's own `digits` if not set |
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from classifier.errors import ModelNotFound, RegistryUnreachable, TandemError
from registry import LocalRegistry, find_model, push

WAIT_S = 60


def main() -> str | None:
    """Fill the registry and return None, or what went wrong."""
    # Process 1 ignores a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A registry that doesn't answer at all is asked again in time.
    os.environ.setdefault("TANDEM_REGISTRY_TIMEOUT", "10")
    own = os.environ.get("TANDEM_SEED_MODEL")
    target = os.environ["TANDEM_SEED_TARGET"]
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            print(seed(own or "digits", target, LocalRegistry(Path("/tandem" if own else "/seed", "registry"))))
        except RegistryUnreachable as error:
            if time.monotonic() > give_up_at:
                return f"Error: {error}"
            time.sleep(1)
        except TandemError as error:
            return f"Error: {error}"
        else:
            return None


def seed(model: str, target: str, registry: LocalRegistry) -> str:
    """Push `model` to `target` unless a model is there; return what is there now.

    Raises:
        TandemError: `model` isn't in `registry`, or the remote registry can't be used.
    """
    try:
        there = find_model(target, registry)
    except ModelNotFound:
        pushed = push(model, target, registry)
        return f"{pushed.reference} is {pushed.digest}"
    return f"{target} has a model already, {there.digest}: nothing was pushed"


if __name__ == "__main__":
    sys.exit(main())
