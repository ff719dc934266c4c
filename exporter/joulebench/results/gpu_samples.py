"""What a store holds of one GPU, and of several with the exporter that watched them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from joulebench.energy.trace import CounterTrace
from joulebench.results.points import EMPTY, Points


@dataclass
class GpuSamples:
    """``gauges``: by metric name. ``throttle``: cumulative seconds by reason.

    Of the exporter that watches it, ``clock_offsets``: its clock minus scrape time; ``clock_steps``: its count of wall clock
    jumps.
    """

    gpu: str
    uuid: str
    energy: CounterTrace = field(default_factory=CounterTrace)
    gauges: dict[str, Points] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    throttle: dict[str, Points] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    instances: set[str] = field(default_factory=set)
    clock_offsets: Points = EMPTY
    clock_steps: Points = EMPTY
    source: str | None = None
    method: str | None = None
    name: str | None = None

    @property
    def seen(self) -> Points:
        """When somebody read this GPU: a card that is lost has no readings."""
        return max(self.gauges.values(), key=len, default=EMPTY)


@dataclass
class Samples:
    gpus: list[GpuSamples]
