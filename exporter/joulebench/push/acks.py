"""What Prometheus has: the acknowledgement without which no group is deleted.

A scrape takes a group as one piece, so the sent time of a push read back from Prometheus proves that every number of that
push is stored. One query a second for the whole worker, and only while something waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from joulebench import metrics
from joulebench.errors import PrometheusError
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ACK_PERIOD = 1.0
MAX_ACK_PERIOD = 5.0

InstantQuery: TypeAlias = Callable[[str], Iterable[tuple[Mapping[str, str], float]]]
"""An instant query's series, each with its labels and value; raises PrometheusError."""


class AckReader:
    """Thread that reads the sent times of the groups with the labels of ``identity``. It asks only while ``wanted``.

    ``error``: why the last query failed, None after one that did not.
    """

    def __init__(self, query: InstantQuery, identity: Mapping[str, str]) -> None:
        selector = ",".join(f'{name}="{value}"' for name, value in identity.items())
        # Deleted groups go stale, so an instant selector returns only what is still on the gateway.
        self._expression = f"{metrics.TASK_SENT.name}{{{selector}}}"
        self._query = query
        self._stop = threading.Event()
        self._answered = False
        self._failures_in_a_row = 0
        self.wanted = False
        self.error: str | None = None

    def start(self, deliver: Callable[[Mapping[str, Seconds]], None]) -> None:
        """``deliver`` gets sent times by task id; that of the run's own group stands under ""."""
        threading.Thread(target=self._loop, args=(deliver,), name="joulebench-acks", daemon=True).start()

    @property
    def is_vain(self) -> bool:
        """Prometheus has never answered, and not for want of asking."""
        return not self._answered and self._failures_in_a_row > 1

    def stop(self) -> None:
        self._stop.set()

    def _loop(self, deliver: Callable[[Mapping[str, Seconds]], None]) -> None:
        period = ACK_PERIOD
        while not self._stop.wait(period):
            if not self.wanted:
                continue
            try:
                seen = {labels.get("task_id", ""): Seconds(value) for labels, value in self._query(self._expression)}
            except PrometheusError as error:
                self._failed(str(error))
                period = min(2 * period, MAX_ACK_PERIOD)
                continue
            period = ACK_PERIOD
            self._answered, self.error, self._failures_in_a_row = True, None, 0
            deliver(seen)

    def _failed(self, error: str) -> None:
        if self.error is None:
            log.warning("Prometheus does not answer, pushed groups stay on the Pushgateway: %s", error)
        self.error = error
        self._failures_in_a_row += 1
