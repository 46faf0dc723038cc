"""The image of the Bento: its code, model and packages belong to root, and the service's user can't change them."""

from __future__ import annotations

from typing import Any

import bentoml

# BentoML's Dockerfile gives everything to the user that runs the service. Here its last command before the copy is
# ours: it takes back what that user has got so far, and copies the Bento itself, readable whatever the builder's umask
# was. Its end turns the line that follows in BentoML's template, `COPY --chown=bentoml:bentoml . ./`, into words that a
# shell ignores.
_SEAL = r"""find /app /home/bentoml -user bentoml -exec chown -h root:root {} + \
 && find /app -perm /022 ! -type l -exec chmod go-w {} +
COPY --chown=root:root --chmod=755 . ./
RUN : \
"""


class SealedImage(bentoml.images.Image):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's description of an image, with `_SEAL` as the last command."""

    def freeze(self, *args: Any, **kwargs: Any) -> Any:
        """Return the description as BentoML writes it into the Bento. BentoML calls this in a build."""
        self.post_commands.append(_SEAL)
        return super().freeze(*args, **kwargs)
