"""One repository of a remote registry: manifests, tags, blobs and referrers.

Protocol: OCI distribution specification 1.1. Every manifest and blob is checked against its digest.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urljoin

import msgspec

from classifier.errors import DamagedArtifact, RegistryDenied, RegistryUnreachable
from classifier.types import from_json, to_json
from registry.oci.manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, describe
from registry.oci.receiving import DamagedInTransit
from registry.oci.references import is_digest, is_tag
from registry.remote.connection import REDIRECTS, Answer, Connection
from registry.remote.failures import LATER, TransientFailure
from registry.remote.retrying import retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from classifier.errors import TandemError
    from registry.oci.receiving import PartialBlob

_MANIFEST_TYPES = (
    MANIFEST_TYPE,
    INDEX_TYPE,
    # Not models; accepted so that an error can name their type.
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_SLOW_COMMIT_BYTES_PER_S = 20_000_000
"""The slowest that a registry may store and hash an upload before it answers."""
_SLOW_UPLOAD_BYTES_PER_S = 1_000_000
_MIN_PROGRESS_BYTES = 1 << 20
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_MAX_PAGES = 1000

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _Tags(msgspec.Struct, kw_only=True):
    tags: tuple[str, ...] | None = None


class RemoteRepository:
    """The repository `name` of the registry `host`. Threads may share it."""

    def __init__(self, host: str, name: str) -> None:
        self.host = host
        # Docker Hub's own repositories are written without `library/`.
        self.name = f"library/{name}" if host == "docker.io" and "/" not in name else name
        self._connection = Connection(host)
        self._pull = f"repository:{self.name}:pull"
        self._push = f"repository:{self.name}:pull,push"

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"

    def find_manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes] | None:
        """Return the manifest with its descriptor; None if there isn't one.

        Raises:
            DamagedArtifact: the manifest doesn't match its digest.
        """
        limit_s = self._connection.limit_s
        return retry(lambda: self._find_manifest(tag_or_digest), limit_s=limit_s)

    def tags(self) -> list[str]:
        """Return all tags, in the registry's order; an empty list if the repository doesn't exist."""
        target = f"{self.name}/tags/list?n=1000"
        answer = self._ask("GET", target, scope=self._pull)
        if answer.status == 404:
            return []
        pages = self._pages(target, answer, _Tags, f"list the tags of {self}")
        return [tag for page in pages for tag in page.tags or () if is_tag(tag)]

    def has_blob(self, blob: Descriptor) -> bool:
        """Return whether the repository has that blob."""
        # A redirect counts as yes and isn't followed: storage URLs signed for GET refuse HEAD.
        answer = self._ask("HEAD", f"{self.name}/blobs/{blob.digest}", scope=self._push)
        if answer.status not in (200, 404, *REDIRECTS):
            raise self._connection.denied(answer, f"look for {blob.digest} in {self}")
        return answer.status != 404

    def read_blob(self, blob: Descriptor) -> bytes:
        """Return the contents of a small blob.

        Raises:
            DamagedArtifact: the blob is missing, or doesn't match its digest.
        """
        what = f"read {blob.digest} of {self}"

        def once() -> bytes:
            answer = self._connection.fetch("GET", f"{self.name}/blobs/{blob.digest}", scope=self._pull)
            if answer.status == 404:
                raise DamagedArtifact(f"{self} has no blob {blob.digest}: push the model again")
            if answer.status != 200:
                raise self._connection.denied(answer, what)
            if describe(answer.body, "").digest != blob.digest or len(answer.body) != blob.size:
                raise DamagedInTransit(f"{self.host} sent other bytes than {blob.digest} of {self.name}: {LATER}")
            return answer.body

        return retry(once, limit_s=self._connection.limit_s)

    def download(self, blob: Descriptor, partial: PartialBlob) -> None:
        """Download the blob into `partial`, continuing after the bytes already there, and check it.

        Raises:
            DamagedArtifact: the blob is missing, or doesn't match its digest.
            RegistryUnreachable: nothing arrived within the time limit.
        """
        while True:
            before = partial.size
            try:
                retry(lambda: self._continue(blob, partial), limit_s=self._connection.limit_s)
            except TransientFailure:
                # Progress earns new tries: over a bad line, a large model takes more than four connections.
                if partial.size < before + _MIN_PROGRESS_BYTES:
                    raise
            else:
                return

    def upload(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], *, mount_from: str | None = None) -> bool:
        """Upload the blob; return False if the registry mounted it from `mount_from` instead.

        Args:
            blob: its descriptor.
            open_blob: opens it from the start, for each try.
            mount_from: another repository of this registry that may have the blob.
        """
        seconds = blob.size / _SLOW_UPLOAD_BYTES_PER_S
        return retry(lambda: self._upload(blob, open_blob, mount_from), limit_s=self._connection.limit_s + seconds)

    def referrers(self, digest: str) -> list[Descriptor]:
        """Return the descriptors of manifests with the subject `digest`, by the referrers API or the fall-back tag."""
        target = f"{self.name}/referrers/{digest}"
        answer = self._ask("GET", target, scope=self._pull)
        # Another type means no API: a proxy may answer unknown paths with a page.
        if answer.status == 200 and answer.headers.get("Content-Type", "").partition(";")[0].strip() == INDEX_TYPE:
            pages = self._pages(target, answer, Index, f"list the referrers of {digest}")
            return [referrer for page in pages for referrer in page.manifests]
        found = self.find_manifest(_fallback_tag(digest))
        return [] if found is None else list(self._read_index(found[1], digest).manifests)

    def put_referrer(self, subject: str, referrer: Descriptor, manifest: bytes) -> None:
        """Store a manifest with this `subject`, after its blobs, so that `referrers` lists it."""
        headers = self.put_manifest(referrer.digest, manifest, MANIFEST_TYPE)
        if headers.get("OCI-Subject") == subject:
            return
        # A registry without the API: of two simultaneous additions one may be lost, as the specification admits.
        tag = _fallback_tag(subject)
        found = self.find_manifest(tag)
        index = Index(schema_version=2, media_type=INDEX_TYPE) if found is None else self._read_index(found[1], subject)
        if all(other.digest != referrer.digest for other in index.manifests):
            new = msgspec.structs.replace(index, manifests=(*index.manifests, referrer))
            self.put_manifest(tag, to_json(new), INDEX_TYPE)

    def put_manifest(self, tag_or_digest: str, manifest: bytes, media_type: str) -> Mapping[str, str]:
        """Store the manifest under a tag, which moves if it exists, or its digest; return the answer's headers."""
        limit_s = self._connection.limit_s
        return retry(lambda: self._put_manifest(tag_or_digest, manifest, media_type), limit_s=limit_s)

    def _ask(self, method: str, target: str, *, scope: str) -> Answer:
        return retry(lambda: self._connection.fetch(method, target, scope=scope), limit_s=self._connection.limit_s)

    def _pages(self, target: str, answer: Answer, type: type[_T], what: str) -> Iterator[_T]:
        """Yield the pages of a list; `answer` is its first, from `target`."""
        for _ in range(_MAX_PAGES):
            yield self._decode(answer, type, what)
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            # Relative to this page (RFC 8288): registries write `/v2/…`, `?last=…` or a whole URL.
            target = urljoin(target, following[1])
            answer = self._ask("GET", target, scope=self._pull)
        raise RegistryUnreachable(f"{self.host} can't {what}: the list is endless; check the registry")

    def _put_manifest(self, tag_or_digest: str, manifest: bytes, media_type: str) -> Mapping[str, str]:
        what = f"store {tag_or_digest} in {self}"
        target, headers = f"{self.name}/manifests/{tag_or_digest}", {"Content-Type": media_type}
        answer = self._connection.fetch("PUT", target, scope=self._push, headers=headers, body=lambda: manifest)
        if answer.status not in (200, 201, 202):
            raise self._refused(answer, what)
        digest = describe(manifest, media_type).digest
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            # Under a tag, a registry accepts a manifest that was damaged on the way.
            raise DamagedInTransit(f"{self.host} stored {stored} as {self}:{tag_or_digest} and not {digest}: {LATER}")
        return answer.headers

    def _find_manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes] | None:
        headers = {"Accept": ", ".join(_MANIFEST_TYPES)}
        target = f"{self.name}/manifests/{tag_or_digest}"
        answer = self._connection.fetch("GET", target, scope=self._pull, headers=headers)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._connection.denied(answer, f"read {self}:{tag_or_digest}")
        media_type = answer.headers.get("Content-Type", MANIFEST_TYPE).partition(";")[0]
        descriptor = describe(answer.body, media_type)
        said = tag_or_digest if is_digest(tag_or_digest) else answer.headers.get("Docker-Content-Digest")
        if said not in (None, descriptor.digest):
            raise DamagedInTransit(f"{self.host} sent {descriptor.digest} of {self.name} in place of {said}: {LATER}")
        return descriptor, answer.body

    def _continue(self, blob: Descriptor, partial: PartialBlob) -> None:
        if partial.size >= blob.size:
            partial.check()
            return
        start = f"bytes {partial.size}-"
        headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
        target = f"{self.name}/blobs/{blob.digest}"
        with self._connection.open("GET", target, scope=self._pull, headers=headers) as response:
            if response.status == 206 and response.headers.get("Content-Range", "").startswith(start):
                _log.debug("continuing %s at byte %d", blob.digest, partial.size)
            elif response.status in (200, 206, 416):
                # This registry doesn't serve this range, or any.
                partial.restart()
                if response.status != 200:
                    raise TransientFailure(f"{self.host} can't continue {blob.digest} where it broke off: {LATER}")
            elif response.status == 404:
                raise DamagedArtifact(f"{self} has no blob {blob.digest}: push the model again")
            else:
                raise self._connection.denied(response, f"read {blob.digest} of {self}")
            for piece in self._connection.pieces(response):
                partial.write(piece)
        if partial.size < blob.size:
            raise TransientFailure(
                f"{self.host} sent {partial.size} of the {blob.size} bytes of {blob.digest} of {self.name}: {LATER}"
            )
        partial.check()

    def _upload(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], mount_from: str | None) -> bool:
        location = self._start_upload(blob, mount_from)
        if location is None:
            return False
        target = location + ("&" if "?" in location else "?") + f"digest={quote(blob.digest, safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        patience_s = blob.size / _SLOW_COMMIT_BYTES_PER_S
        answer = self._connection.fetch(
            "PUT", target, scope=self._push, headers=headers, body=open_blob, patience_s=patience_s
        )
        if answer.status not in (201, 204):
            raise self._refused(answer, f"store {blob.digest} in {self}")
        return True

    def _start_upload(self, blob: Descriptor, mount_from: str | None) -> str | None:
        """Return the URL to send the blob to; None if the registry mounted it from another repository."""
        target, scope = f"{self.name}/blobs/uploads/", self._push
        if mount_from is not None:
            target += "?" + urlencode({"mount": blob.digest, "from": mount_from})
            scope = f"{self._push} repository:{mount_from}:pull"
        try:
            answer = self._connection.fetch("POST", target, scope=scope)
        except RegistryDenied:
            if mount_from is None:
                raise
            return self._start_upload(blob, None)  # The user may lack permission to read there.
        if mount_from is not None and answer.status == 201:
            return None
        if mount_from is not None and answer.status in (401, 403, 404):
            return self._start_upload(blob, None)
        if answer.status != 202:
            raise self._connection.denied(answer, f"store {blob.digest} in {self}")
        if "Location" not in answer.headers:
            raise TransientFailure(f"{self.host} gives no URL to upload {blob.digest}: {LATER}")
        return answer.headers["Location"]

    def _refused(self, answer: Answer, what: str) -> TandemError:
        """Return the error for a refused upload."""
        if answer.status in (400, 404, 416):
            # The answer to an upload that was damaged on the way, or that the registry has forgotten.
            said = self._connection.problem(answer.body)
            return DamagedInTransit(f"{self.host} can't {what} (HTTP {answer.status}, {said or 'no reason'}): {LATER}")
        return self._connection.denied(answer, what)

    def _read_index(self, content: bytes, digest: str) -> Index:
        try:
            return from_json(content, Index)
        except ValueError as error:
            raise RegistryUnreachable(
                f"{self}:{_fallback_tag(digest)} should list referrers, and doesn't: remove that tag"
            ) from error

    def _decode(self, answer: Answer, type: type[_T], what: str) -> _T:
        if answer.status != 200:
            raise self._connection.denied(answer, what)
        try:
            return from_json(answer.body, type)
        except ValueError as error:
            raise RegistryUnreachable(
                f"{self.host} can't {what}: its answer is not such a list; check that it is an OCI registry"
            ) from error


def _fallback_tag(digest: str) -> str:
    return digest.replace(":", "-")
