"""Remembers which requests a model server refused with our additions (logprobs, usage), for a limited time.

Servers refuse members that they do not know in many ways: 400, 422, 500, 501, 403, 405, an error object in a reply with status
200, or a closed connection. A request that was refused with additions is sent again without them; when that succeeds, the
additions were the cause and are left out of requests of the same kind until they are tried again.
"""

from __future__ import annotations

from collections.abc import Hashable

MAX_KINDS = 1000
TRY_AGAIN_AFTER = 600.0
"""Seconds: a server may have been restarted with another version or model."""

NOT_ABOUT_THE_BODY = frozenset((401, 407, 429, 503))
"""Statuses that no change of the body can turn into success: credentials and load."""


def may_be_about_additions(status: int) -> bool:
    """Returns whether a reply with this HTTP status may be due to members that were added to the request."""
    return status >= 400 and status not in NOT_ABOUT_THE_BODY


class RefusalMemory:
    """Kinds of request, any hashable value, that were refused. Times by the monotonic clock."""

    def __init__(self, seconds: float = TRY_AGAIN_AFTER) -> None:
        self._seconds = seconds
        self._until: dict[Hashable, float] = {}

    def is_refused(self, kind: Hashable, now: float) -> bool:
        until = self._until.get(kind)
        if until is None:
            return False
        if now >= until:
            del self._until[kind]
            return False
        return True

    def remember(self, kind: Hashable, now: float) -> None:
        self._until.pop(kind, None)
        self._until[kind] = now + self._seconds
        if len(self._until) > MAX_KINDS:
            del self._until[next(iter(self._until))]
