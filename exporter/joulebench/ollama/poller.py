"""A background thread that asks Ollama for its inventory, so that no scrape ever waits for Ollama.

What it last saw is dated: an answer that is older than a few periods counts as no answer, whatever keeps the thread busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from joulebench.clock import Clock
from joulebench.errors import OllamaError
from joulebench.ollama.changes import LoadCounts
from joulebench.ollama.inventory import OllamaInventory

log = logging.getLogger(__name__)

STALE_AFTER_PERIODS = 3
GRACE = 5.0
"""Seconds added for an answer that is slow but still within its timeouts."""


class InventorySource(Protocol):
    def inventory(self) -> OllamaInventory: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OllamaSight:
    """The outcome of one poll: ``inventory`` is None when Ollama did not answer. ``loads``, ``unloads``: seen so far, by name."""

    inventory: OllamaInventory | None
    at: float
    loads: Mapping[str, int] = field(default_factory=dict)
    unloads: Mapping[str, int] = field(default_factory=dict)


class OllamaPoller:
    """``period``: seconds between the end of one poll and the start of the next."""

    def __init__(self, source: InventorySource, clock: Clock, period: float = 5.0) -> None:
        self._source = source
        self._clock = clock
        self._period = period
        self._sight: OllamaSight | None = None
        self._counts = LoadCounts()
        self._started_at = clock.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ollama-poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once when the thread hangs in a request: it is a daemon and holds nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=0.5)

    def sight(self) -> OllamaSight | None:
        """The last poll; None before the first is through."""
        sight = self._sight
        seen_at = self._started_at if sight is None else sight.at
        if self._clock.monotonic() - seen_at > STALE_AFTER_PERIODS * self._period + GRACE:
            return OllamaSight(None, seen_at)
        return sight

    def poll(self) -> None:
        """One poll, in the calling thread."""
        was_up = self._sight is None or self._sight.inventory is not None
        found: OllamaInventory | None = None
        try:
            found = self._source.inventory()
        except OllamaError as error:
            if was_up:
                log.warning("Ollama does not answer: %s", error)
        except Exception:
            # The thread must outlive an answer nobody thought of, or the last sight would stay for good.
            log.exception("reading the Ollama inventory failed")
        if found is not None and not was_up:
            log.info("Ollama answers again")
        if found is not None:
            self._counts.see(found)
        self._sight = OllamaSight(found, self._clock.monotonic(), self._counts.loads, self._counts.unloads)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self._period)
        self._source.close()
