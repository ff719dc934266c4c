"""The idle power of each GPU with the model loaded, measured on purpose while nothing is asked of it.

A loaded model and its CUDA context cost far more than a bare card, so idle is measured before and after the tasks of a run and
not looked up. The figure is the exporter's window energy over a quiet interval; without an exporter there is none, and why is
said once.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, dataclass

from joulebench.clients.exporter import EnergyAnswer, ExporterApi
from joulebench.clock import Clock
from joulebench.errors import EnergyApiError
from joulebench.push.journal import Journal
from joulebench.units import Seconds, Watts

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
"""Left out after work: a card stays in a high performance state for a while."""
CLOCK_STEP_SECONDS = 0.05
COUNTER_WAIT = 0.5


@dataclass(frozen=True, slots=True)
class GpuIdle:
    """Mean watts over the quiet interval, with the bounds that the counter guarantees; None where not known."""

    gpu: str
    uuid: str
    watts: Watts | None
    low: Watts | None
    high: Watts | None
    quality: str


class IdleMeter:
    """``exporter_url`` None: there is no exporter. ``reason``: why idle power could not be measured, None while it could."""

    def __init__(self, exporter_url: str | None, clock: Clock, journal: Journal) -> None:
        self._exporter_url = exporter_url
        self._clock = clock
        self._journal = journal
        self.reason: str | None = None

    def ready(self) -> bool:
        """Whether an exporter answers now."""
        if self._exporter_url is None:
            return self._refused("no exporter_url")
        now = self._clock.unix()
        return self._ask(self._exporter_url, Seconds(now - 1.0), now, 0.0) is not None

    def measure(self, seconds: float, label: str) -> tuple[GpuIdle, ...]:
        """Waits, measures ``seconds`` and writes IDLE_POWER; nothing is waited for where no exporter answers."""
        if not self.ready() or self._exporter_url is None:
            return ()
        pause = threading.Event()
        pause.wait(SETTLE_SECONDS)
        start, began = self._clock.unix(), self._clock.monotonic()
        pause.wait(seconds)
        end, length = self._clock.unix(), self._clock.monotonic() - began
        if length <= 0 or abs(end - start - length) > CLOCK_STEP_SECONDS:
            self._refused("the wall clock stepped while idle power was measured")
            return ()
        answer = self._ask(self._exporter_url, start, end, COUNTER_WAIT)
        if answer is None:
            return ()
        gpus = tuple(
            GpuIdle(g.gpu, g.uuid, _watts(g.joules, length), _watts(g.low, length), _watts(g.high, length), g.quality)
            for g in answer.gpus
        )
        self._journal.write(
            "IDLE_POWER", end, None, label=label, start=start, end=end, source=answer.source, gpus=[asdict(gpu) for gpu in gpus]
        )
        return gpus

    def _ask(self, url: str, start: Seconds, end: Seconds, wait: float) -> EnergyAnswer | None:
        api = ExporterApi(url)
        try:
            return api.energy(start, end, wait)
        except EnergyApiError as error:
            self._refused(str(error))
            return None
        finally:
            api.close()

    def _refused(self, reason: str) -> bool:
        if self.reason is None:
            log.warning("idle power is not measured: %s", reason)
        self.reason = reason
        return False


def _watts(joules: float | None, seconds: float) -> Watts | None:
    return None if joules is None else Watts(joules / seconds)
