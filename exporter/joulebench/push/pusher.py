"""The background threads that keep the Pushgateway level with the totals.

A caller only leaves a group in the inbox; however often that happens, the group is pushed whole and at most four times a second,
and its final state at once. A push that fails is tried again with whatever the totals are by then, so nothing is lost and nothing
queues up. With acknowledgements from Prometheus a finished group is deleted, without them it stays on the gateway. In both
cases the run goes on, and the report at the end says what is where.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from joulebench import metrics
from joulebench.clients.pushgateway import GatewayRefused
from joulebench.clock import Clock, SystemClock
from joulebench.errors import GatewayError, PrometheusError, format_error
from joulebench.push.groups import REFRESH_PERIOD, Group, Groups
from joulebench.supervise import BackgroundLoop, LoopErrors
from joulebench.units import Seconds

if TYPE_CHECKING:
    from joulebench.metrics.families import Family

log = logging.getLogger(__name__)

MAX_LIVE_GROUPS = 200
MAX_REASONS = 5
SYNC_PERIOD = 1.0
MIN_PAUSE = 0.01
"""Keeps the push thread from competing with its callers for the interpreter."""
ACK_PERIOD = 1.0
MAX_ACK_PERIOD = 5.0
FIRST_BACKOFF = 0.25
MAX_BACKOFF = 5.0
STOP_SECONDS = 0.5
"""How long the end of a run waits for a query under way; its thread is a daemon."""

InstantQuery: TypeAlias = Callable[[str], Iterable[tuple[Mapping[str, str], float]]]
"""An instant query's series, each with its labels and value; raises PrometheusError."""


class Gateway(Protocol):
    def put(self, families: Iterable[Family], key: Mapping[str, str]) -> None: ...

    def delete(self, key: Mapping[str, str]) -> None: ...

    def groups(self) -> list[dict[str, str]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PushReport:
    """``groups_left``: this worker's groups still on the gateway, None where it does not answer. ``unpushed``: groups whose
    last state never reached it. ``reasons``: why any of it is not as it should be, in words."""

    pushes: int = 0
    failures: int = 0
    acknowledged: int = 0
    groups_left: int | None = 0
    unpushed: int = 0
    dropped: int = 0
    reasons: tuple[str, ...] = ()


class Acknowledgements:
    """Thread that reads from Prometheus which pushes it has scraped: without that, no group is deleted.

    A scrape takes a group as one piece, so the sent time of a push read back from Prometheus proves that every number of that
    push is stored. One query a second for the whole worker, and only while ``wanted`` is set. ``close`` is called at the end.
    """

    def __init__(
        self,
        query: InstantQuery,
        identity: Mapping[str, str],
        errors: LoopErrors | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        selector = ",".join(f'{name}="{value}"' for name, value in identity.items())
        # Deleted groups go stale, so an instant selector returns only what is still on the gateway.
        self._expression = f"{metrics.TASK_SENT.name}{{{selector}}}"
        self._query = query
        self._deliver: Callable[[Mapping[str, Seconds]], None] = lambda _: None
        self._lock = threading.Lock()
        self._error: str | None = None
        self._answered = False
        self._failures_in_a_row = 0
        self._period = ACK_PERIOD
        self.wanted = threading.Event()
        self._loop = BackgroundLoop("acknowledgements", self._step, errors=errors, at_end=close)

    def start(self, deliver: Callable[[Mapping[str, Seconds]], None]) -> None:
        """``deliver`` gets sent times by task id; that of the run's own group stands under ""."""
        self._deliver = deliver
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop(timeout=STOP_SECONDS)

    @property
    def error(self) -> str | None:
        """Why the last query failed; None after one that worked."""
        with self._lock:
            return self._error

    @property
    def is_unreachable(self) -> bool:
        """Whether Prometheus has never answered, after more than one query."""
        with self._lock:
            return not self._answered and self._failures_in_a_row > 1

    def _step(self) -> float:
        if not self.wanted.is_set():
            return ACK_PERIOD
        try:
            sent_times = {labels.get("task_id", ""): Seconds(value) for labels, value in self._query(self._expression)}
        except PrometheusError as error:
            self._fail(str(error))
            self._period = min(2 * self._period, MAX_ACK_PERIOD)
            return self._period
        with self._lock:
            self._answered, self._error, self._failures_in_a_row = True, None, 0
        self._deliver(sent_times)
        self._period = ACK_PERIOD
        return self._period

    def _fail(self, error: str) -> None:
        with self._lock:
            is_new, self._error = self._error is None, error
            self._failures_in_a_row += 1
        if is_new:
            log.warning("Prometheus does not answer, pushed groups stay on the Pushgateway: %s", error)


class GatewayHealth:
    """Whether the Pushgateway answers, and when to try it again; one log line for each change of that.

    Times are monotonic seconds. ``error``: why it could not be reached last time, None while it can.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.retry_at = 0.0
        self._backoff = 0.0

    def mark_unreachable(self, error: GatewayError, now: float) -> None:
        if self.error is None:
            log.warning("a push failed; the run goes on and its journal has everything: %s", error)
        self.error = str(error)
        self._backoff = min(MAX_BACKOFF, 2 * self._backoff or FIRST_BACKOFF)
        self.retry_at = now + self._backoff

    def mark_reachable(self) -> bool:
        """Returns True when the gateway had been unreachable."""
        returned = self._backoff > 0.0
        if returned:
            log.info("the Pushgateway takes pushes again")
        self.error = None
        self._backoff = self.retry_at = 0.0
        return returned

    def try_now(self) -> None:
        """Ends the wait, and keeps the error."""
        self.retry_at = 0.0


class Pusher:
    """``identity`` (job, run_id, worker) is what the keys of all groups have in common. ``clock`` gives the sent times; waiting
    goes by the system's clock. ``on_failure`` is called for each push that failed, ``sync`` soon after groups finished.

    The inbox and what ``close`` sets are shared between threads, under ``_lock``; everything else is the push thread's own.
    """

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        identity: Mapping[str, str],
        *,
        acknowledgements: Acknowledgements | None,
        on_failure: Callable[[], None],
        sync: Callable[[], None],
        errors: LoopErrors | None = None,
        max_live_groups: int = MAX_LIVE_GROUPS,
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._identity = dict(identity)
        self._acknowledgements = acknowledgements
        self._on_failure = on_failure
        self._sync = sync
        self._errors = errors or LoopErrors()
        self._max_live_groups = max_live_groups
        self._pace = SystemClock()
        self._lock = threading.Lock()
        self._inbox: dict[Group, bool] = {}
        self._sent_times: list[Mapping[str, Seconds]] = []
        self._is_idle = False
        self._stopping_at: float | None = None
        self._stop_by = float("inf")
        self._health = GatewayHealth()
        self._groups = Groups(wait_for_acknowledgement=acknowledgements is not None, limit=max_live_groups)
        self._tried_at = float("-inf")
        self._synced_at = float("-inf")
        self._sync_wanted = False
        self._pushes = self._failures = self._acknowledged = 0
        self._was_full = False
        self._loop = BackgroundLoop("push", self._step, errors=self._errors)

    def start(self) -> None:
        self._loop.start()
        if self._acknowledgements is not None:
            self._acknowledgements.start(self._take_acknowledgements)

    def changed(self, group: Group) -> None:
        """Push the group soon. Returns at once."""
        with self._lock:
            if group in self._inbox:
                return
            self._inbox[group] = False
            wake, self._is_idle = self._is_idle, False
        if wake:
            self._loop.wake()

    def finished(self, group: Group) -> None:
        """Push the group now: its totals are final. Returns at once."""
        with self._lock:
            self._inbox[group] = True
            self._is_idle = False
        self._loop.wake()

    def close(self, drain: float) -> PushReport:
        """Waits at most ``drain`` seconds (and one request) for pushes and acknowledgements, less where waiting is of no use."""
        with self._lock:
            self._stopping_at = self._pace.monotonic()
            self._stop_by = self._stopping_at + drain
        self._loop.wake()
        ended = self._loop.join(drain + 6.0) or self._loop.stop(0.0)
        if self._acknowledgements is not None:
            self._acknowledgements.stop()
        report = self._report(ended)
        if ended:
            self._gateway.close()
        return report

    def _take_acknowledgements(self, sent_times: Mapping[str, Seconds]) -> None:
        with self._lock:
            self._sent_times.append(sent_times)
        self._loop.wake()

    def _step(self) -> float | None:
        with self._lock:
            inbox, self._inbox = self._inbox, {}
            sent_times, self._sent_times = self._sent_times, []
            stopping_at, stop_by = self._stopping_at, self._stop_by
        for group, final in inbox.items():
            self._groups.add(group, final=final)
            self._sync_wanted = self._sync_wanted or final
        if stopping_at is not None and self._tried_at < stopping_at:
            self._health.try_now()
        is_late = self._is_late(stopping_at, stop_by)
        self._delete_acknowledged(sent_times)
        self._push_due(is_late)
        self._sync_journal()
        self._groups.mark_stale(self._pace.monotonic())
        if self._acknowledgements is not None:
            if self._groups.awaiting:
                self._acknowledgements.wanted.set()
            else:
                self._acknowledgements.wanted.clear()
        if stopping_at is not None and self._may_stop(stopping_at, stop_by):
            return None
        return self._pause(is_late, is_stopping=stopping_at is not None)

    def _delete_acknowledged(self, answers: Iterable[Mapping[str, Seconds]]) -> None:
        for sent_times in answers:
            for group in self._groups.acknowledged(sent_times):
                if self._pace.monotonic() < self._health.retry_at:
                    return
                try:
                    self._gateway.delete(group.key)
                except GatewayError as error:
                    # The group is still here, and the next acknowledgement tries again.
                    self._health.mark_unreachable(error, self._pace.monotonic())
                    return
                self._groups.mark_deleted(group)
                self._acknowledged += 1

    def _push_due(self, is_late: bool) -> None:
        now = self._pace.monotonic()
        if now < self._health.retry_at:
            return
        if self._groups.is_full and not self._was_full:
            self._was_full = True
            log.warning("this worker has %d task groups on the Pushgateway; it slows down with each", self._max_live_groups)
        for group in self._groups.due(now, over_limit=is_late):
            if not self._push(group):
                return

    def _push(self, group: Group) -> bool:
        """Returns False where the gateway cannot be reached, so that the others need not be tried."""
        group.tried_at = self._tried_at = self._pace.monotonic()
        changed, group.dirty, group.stale = group.dirty, False, False
        final = group.final
        sent = self._clock.unix()
        try:
            self._gateway.put(group.render(sent), group.key)
        except GatewayError as error:
            is_refused = isinstance(error, GatewayRefused)
            self._fail(group, changed, str(error), is_refused=is_refused)
            if not is_refused:
                self._health.mark_unreachable(error, self._pace.monotonic())
                return False
            # The gateway makes the group even so, for its push_failure_time_seconds.
            group.on_gateway = True
            return True
        except Exception as error:
            # A bug in one group's numbers; the groups of other tasks are pushed.
            self._errors.record("push", error)
            self._fail(group, changed, format_error(error), is_refused=True)
            return True
        self._pushes += 1
        group.mark_pushed(sent, changed=changed, final=final)
        self._groups.set_aside_if_final(group)
        if self._health.mark_reachable():
            self._groups.gateway_returned()
        return True

    def _fail(self, group: Group, changed: bool, error: str, *, is_refused: bool) -> None:
        group.dirty = group.dirty or changed
        group.stale = True
        if is_refused:
            group.refused_until = group.tried_at + MAX_BACKOFF
            if group.error is None:
                log.error("the Pushgateway refuses a group, and the run's journal has it: %s", error)
        group.error = error
        self._failures += 1
        self._on_failure()

    def _sync_journal(self) -> None:
        now = self._pace.monotonic()
        if self._sync_wanted and now - self._synced_at > SYNC_PERIOD:
            self._sync_wanted = False
            self._synced_at = now
            self._sync()

    def _is_late(self, stopping_at: float | None, stop_by: float) -> bool:
        """In the second half of the drain, when room on the gateway is no longer waited for."""
        return stopping_at is not None and self._pace.monotonic() > (stopping_at + stop_by) / 2

    def _pause(self, is_late: bool, *, is_stopping: bool) -> float:
        """Seconds until there is something to do."""
        now = self._pace.monotonic()
        due = self._groups.next_due(over_limit=is_late)
        times = [] if due is None else [max(due, self._health.retry_at)]
        if self._sync_wanted:
            times.append(self._synced_at + SYNC_PERIOD)
        if is_stopping:
            times.append(now + 0.1)
        with self._lock:
            if self._inbox or times:
                return MIN_PAUSE if not times else max(min(times) - now, MIN_PAUSE)
            # From here on the next change wakes the thread.
            self._is_idle = True
        return REFRESH_PERIOD

    def _may_stop(self, stopping_at: float, stop_by: float) -> bool:
        now = self._pace.monotonic()
        if now >= stop_by:
            return True
        with self._lock:
            if self._inbox:
                return False
        unpushed = self._groups.unpushed
        if unpushed and self._health.error is not None:
            # A gateway that took nothing in the whole run is tried once more, not waited for.
            return not self._pushes and self._tried_at >= stopping_at
        if any(group.refused_until <= now for group in unpushed):
            return False
        if self._acknowledgements is None or not self._groups.awaiting:
            return True
        return self._acknowledgements.is_unreachable

    def _report(self, ended: bool) -> PushReport:
        if not ended:
            # The thread hangs in a request and may still change what a report is made of.
            return PushReport(groups_left=None, reasons=("gateway: a request was not answered until the end of the run",))
        return PushReport(
            pushes=self._pushes,
            failures=self._failures,
            acknowledged=self._acknowledged,
            groups_left=self._groups_left(),
            unpushed=len(self._groups.unpushed) + self._groups.dropped,
            dropped=self._groups.dropped,
            reasons=self._reasons(),
        )

    def _reasons(self) -> tuple[str, ...]:
        """Why not everything is pushed, acknowledged and deleted; empty where it is."""
        causes = dict.fromkeys(group.error or self._health.error or "no time was left to push" for group in self._groups.unpushed)
        reasons = [f"gateway: {cause}" for cause in causes][:MAX_REASONS]
        if self._groups.dropped:
            reasons.append(f"gateway: {self._groups.dropped} tasks were dropped because too many waited for the Pushgateway")
        acknowledgements = self._acknowledgements
        if acknowledgements is None and self._pushes:
            reasons.append("no prometheus_url: finished groups are kept on the Pushgateway")
        if acknowledgements is not None and self._groups.awaiting:
            cause = acknowledgements.error or "the last pushes were not scraped; does it scrape this Pushgateway?"
            reasons.append(f"prometheus: {cause}")
        if self._was_full:
            reasons.append(f"{self._groups.limit} groups or more were on the Pushgateway at once")
        return tuple(reasons)

    def _groups_left(self) -> int | None:
        """Also deletes what a push that timed out here and arrived there after all has left behind."""
        if self._health.error is not None:
            return None
        try:
            mine = [key for key in self._gateway.groups() if self._identity.items() <= key.items()]
            orphans = [key for key in mine if self._groups.was_deleted(key)]
            for key in orphans:
                self._gateway.delete(key)
        except GatewayError as error:
            log.warning("the groups left on the Pushgateway could not be counted: %s", error)
            return None
        return len(mine) - len(orphans)
