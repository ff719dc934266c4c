"""Whether the Pushgateway answers, when to try it again, and one log line for each change of that."""

from __future__ import annotations

import logging

from joulebench.errors import GatewayError

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.25
MAX_BACKOFF = 5.0


class GatewayHealth:
    """Times are monotonic seconds. ``error``: why it could not be reached last time, None while it can."""

    def __init__(self) -> None:
        self.error: str | None = None
        self.retry_at = 0.0
        self._backoff = 0.0

    def unreachable(self, error: GatewayError, now: float) -> None:
        if self.error is None:
            log.warning("a push failed; the run goes on and its journal has everything: %s", error)
        self.error = str(error)
        self._backoff = min(MAX_BACKOFF, 2 * self._backoff or FIRST_BACKOFF)
        self.retry_at = now + self._backoff

    def worked(self) -> bool:
        """True where the gateway had been away."""
        returned = self._backoff > 0.0
        if returned:
            log.info("the Pushgateway takes pushes again")
        self.error = None
        self._backoff = self.retry_at = 0.0
        return returned

    def try_now(self) -> None:
        """Forgets the wait, not the error."""
        self.retry_at = 0.0
