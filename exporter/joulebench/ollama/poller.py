"""Polls Ollama for its inventory in the background, so that no scrape ever waits for Ollama.

An answer that is older than a few periods counts as no answer, whatever keeps the thread busy.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from joulebench.clock import Clock
from joulebench.errors import OllamaError
from joulebench.ollama.inventory import MAX_MODELS, OllamaInventory
from joulebench.supervise import BackgroundLoop

log = logging.getLogger(__name__)

STALE_AFTER_PERIODS = 3
GRACE = 5.0
"""Seconds added for an answer that is slow but still within its timeouts."""


class InventorySource(Protocol):
    def inventory(self) -> OllamaInventory: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OllamaPoll:
    """One poll: ``inventory`` is None when Ollama did not answer. ``at``: monotonic time. ``loads`` and
    ``unloads``: counts so far, by model."""

    inventory: OllamaInventory | None
    at: float
    loads: Mapping[str, int] = field(default_factory=dict)
    unloads: Mapping[str, int] = field(default_factory=dict)


class LoadCounts:
    """Loads and unloads by model since the exporter started; a model on disk that was never loaded has 0.

    Derived from one inventory after the other: a model that comes and goes between two polls, or is loaded again from the same
    file, is not counted. The models of the first inventory were loaded before and count as nothing. Of more than ``MAX_MODELS``
    names in all, those that come later are left out.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, str] | None = None
        self._loads: Counter[str] = Counter()
        self._unloads: Counter[str] = Counter()

    def add(self, inventory: OllamaInventory) -> None:
        """Counts the changes since the last inventory; one without a list of loaded models changes nothing."""
        if inventory.loaded is None:
            return
        now = {model.name: model.digest for model in inventory.loaded}
        before, self._loaded = self._loaded, now
        # Sorted: names appear as series in the order in which they first occur.
        for name in sorted({*now, *(inventory.available or ())} - {""}):
            if name in self._loads or len(self._loads) < MAX_MODELS:
                self._loads[name] += 0
                self._unloads[name] += 0
        if before is None:
            return
        for name in before.keys() | now.keys():
            if name in self._loads and before.get(name) != now.get(name):
                # Another file under the same name is the end of one model and the start of the next.
                self._unloads[name] += name in before
                self._loads[name] += name in now

    @property
    def loads(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._loads))

    @property
    def unloads(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._unloads))


class OllamaPoller:
    """``period``: seconds between the end of one poll and the start of the next."""

    def __init__(self, source: InventorySource, clock: Clock, period: float = 5.0) -> None:
        self._source = source
        self._clock = clock
        self._period = period
        self._latest: OllamaPoll | None = None
        self._counts = LoadCounts()
        self._started_at = clock.monotonic()
        self._loop = BackgroundLoop("ollama-poller", self.poll, at_end=source.close)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns after a moment even where a request hangs: the thread is a daemon and holds nothing."""
        self._loop.stop(timeout=0.5)

    def latest(self) -> OllamaPoll | None:
        """The last poll, without an inventory once it is too old; None before the first poll has ended."""
        latest = self._latest
        at = self._started_at if latest is None else latest.at
        if self._clock.monotonic() - at > STALE_AFTER_PERIODS * self._period + GRACE:
            return OllamaPoll(None, at)
        return latest

    def poll(self) -> float:
        """Asks Ollama once, in the calling thread. Returns the seconds until the next poll."""
        was_up = self._latest is None or self._latest.inventory is not None
        inventory: OllamaInventory | None = None
        try:
            inventory = self._source.inventory()
        except OllamaError as error:
            if was_up:
                log.warning("Ollama does not answer: %s", error)
        except BaseException:
            # An unforeseen error must not leave the last inventory standing; the background loop logs and counts it.
            self._record(None)
            raise
        if inventory is not None and not was_up:
            log.info("Ollama answers again")
        self._record(inventory)
        return self._period

    def _record(self, inventory: OllamaInventory | None) -> None:
        if inventory is not None:
            self._counts.add(inventory)
        self._latest = OllamaPoll(inventory, self._clock.monotonic(), self._counts.loads, self._counts.unloads)
