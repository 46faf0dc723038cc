"""The image that `bentoml containerize` builds of the Bento; `tandem package` builds that of Dockerfile.service.

Code, model and packages belong to root, and the service's user can't change them.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml

from service.resolving import resolve_served

BASE_IMAGE = "python:3.11.16-slim-bookworm@sha256:2e32f7d302adc1c37428355c1e646897c0c53f4fd60b6a551245fb90ee129f91"
"""The Dockerfiles' base. `nox -s base` updates them all."""

# BentoML's Dockerfile gives everything to the user that runs the service. Here its last command before the copy is
# ours: it takes back what that user has got so far, and copies the Bento itself, readable whatever the builder's umask
# was. Its end turns the line that follows in BentoML's template, `COPY --chown=bentoml:bentoml . ./`, into words that a
# shell ignores.
_SEAL = r"""find /app /home/bentoml -user bentoml -exec chown -h root:root {{}} + \
 && find /app -perm /022 ! -type l -exec chmod go-w {{}} +
COPY --chown=root:root --chmod=755 . ./
STOPSIGNAL SIGTERM
ENV TANDEM_STOP_WITHIN=1
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-I", "src/service/container/health.py"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tandem service (cpu)" \
      org.opencontainers.image.description="Classifies images over HTTP with a model artifact, as the bulk run does" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${{REVISION}}" \
      tandem.model="{model}"
RUN : \
"""


class SealedImage(bentoml.images.Image):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's description of an image, with `_SEAL` as the last command."""

    @classmethod
    def of_service(cls) -> SealedImage:
        """Return the description of the service's image; $TANDEM_BASE_IMAGE names another base."""
        # distro="": BentoML installs neither a compiler nor curl. All locked packages are wheels.
        return cls(base_image=os.environ.get("TANDEM_BASE_IMAGE") or BASE_IMAGE, distro="")

    def freeze(self, *args: Any, **kwargs: Any) -> Any:
        """Return the description as BentoML writes it into the Bento. BentoML calls this in a build."""
        self.post_commands.append(_SEAL.format(model=resolve_served(None).identity))
        return super().freeze(*args, **kwargs)
