"""Every limit of the service: connections, heads, bodies, images, and waiting times.

`lower_limits` sets those that the environment lowers, so read them as `limits.NAME`.
"""

from __future__ import annotations

from dataclasses import replace

from classifier.environment import bytes_in, number_in, part_in, seconds_in
from classifier.images import LIMITS

MAX_CONNECTIONS = 1000
"""Open connections of a worker. One more ends the one that owes its request and was silent longest."""
MAX_HEAD_BYTES = 64 * 2**10
"""A request line with its headers, or what stands between the bytes of a chunked body."""
MAX_PIPELINED = 16
"""Requests that a client sends before it has the answer to the first."""
HEAD_WITHIN_S = 20
"""Time to receive a request line with its headers."""
ANSWER_WITHIN_S = 150
"""Time from a complete request until the client has taken its answer; longer than the limits below."""
SLACK_S = 5
"""What `service.edge.connections` gives in addition, so that `service.edge.classify` refuses a slow body first."""

MAX_BODY_BYTES = LIMITS.max_bytes + 64 * 2**10
"""One body: an image, plus the boundaries and headers of a multipart form."""
MAX_BUFFERED_BYTES = 512 * 2**20
"""All bodies that are being received, waiting or being classified; less in a container of little memory."""
BUFFERED_PART = 1 / 8
"""Part of a container's memory that bodies may take. The images in them take more once they are decoded."""
MAX_IN_FLIGHT = 128
"""Requests whose image is waiting or being classified. Refuse the next one: a longer queue only means longer waits."""
BODY_WITHIN_S = 60
"""Time to receive a body. A request that is still sending does not count as in flight; only its bytes count."""
START_WITHIN_S = 20
"""Time from a complete body to the start of its classification."""
MAX_FEEDBACK_BYTES = 16 * 2**10
"""The body of `POST /feedback`."""
MAX_IMAGES = 128
"""Images of one request."""
LOG_WITHIN_S = 5
"""Time to write what waits for the prediction log when the service ends."""
CLOSE_WITHIN_S = 5
"""Time for all that a worker closes, side by side: cache, prediction log and spans each take less."""
END_WITHIN_S = CLOSE_WITHIN_S + 3
"""From the last answer to the end of a worker's process. With the drain it is less than Kubernetes' 30 s."""
IMAGE_LIMITS = LIMITS
"""Bytes, pixels and memory of one image."""
BATCH_WITHIN_S = 100
"""Time for all images of one request."""
RETRY_AFTER_S = 1
"""What `Retry-After` tells a client that was refused because of overload."""
CLIENT_SHARE = 0.5
"""Part of the requests in flight and of the buffered bytes that one client may take."""
DRAIN_S = 1.0
"""Time after SIGTERM in which new requests are still answered, while readiness says no."""
STOP_WITHIN_S = 20
"""Time after that for the requests in flight. `Serving.close` comes after it, and Kubernetes kills after 30 s."""


def buffered_bytes(memory: int | None) -> int:
    """Return how many bytes of bodies a service may hold, where `memory` is its container's; None if unlimited."""
    return MAX_BUFFERED_BYTES if memory is None else min(MAX_BUFFERED_BYTES, int(BUFFERED_PART * memory))


def lower_limits() -> None:
    """Set the limits that the environment lowers. Called once, before the first request.

    Raises:
        ValueError: a variable is not a number, or over the limit that is built in; the message is one for users.
    """
    global CLIENT_SHARE, IMAGE_LIMITS, MAX_BODY_BYTES, MAX_IMAGES, MAX_IN_FLIGHT  # noqa: PLW0603  # as said above
    MAX_BODY_BYTES = bytes_in("TANDEM_MAX_BODY", MAX_BODY_BYTES, at_most=MAX_BODY_BYTES)
    MAX_IMAGES = number_in("TANDEM_MAX_IMAGES", at_most=MAX_IMAGES)
    MAX_IN_FLIGHT = number_in("TANDEM_MAX_IN_FLIGHT", at_most=MAX_IN_FLIGHT)
    IMAGE_LIMITS = replace(LIMITS, max_pixels=number_in("TANDEM_MAX_PIXELS", at_most=LIMITS.max_pixels))
    CLIENT_SHARE = part_in("TANDEM_CLIENT_SHARE", CLIENT_SHARE)


class Refused(Exception):
    """The service does not take a request now.

    Attributes:
        retry_after_s: when to try again.
    """

    def __init__(self, message: str, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Refused):
    """The service has no room for a request. `service.edge.refusals` answers it with 503 and Retry-After."""


class OverShare(Refused):
    """A client asks for more than its share. `service.edge.refusals` answers it with 429 and Retry-After."""


def stop_within_s() -> float:
    """Return for how many seconds a stopping worker then answers the requests in flight.

    Raises:
        ValueError: TANDEM_STOP_WITHIN is not a number of seconds; the message is one for users.
    """
    return seconds_in("TANDEM_STOP_WITHIN", STOP_WITHIN_S)


def drain_s() -> float:
    """Return for how many seconds a stopping worker takes new requests.

    Raises:
        ValueError: TANDEM_DRAIN is not a number of seconds; the message is one for users.
    """
    return seconds_in("TANDEM_DRAIN", DRAIN_S, or_none=True)
