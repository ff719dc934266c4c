"""What a store holds of one GPU, and of several with the exporter that watched them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from joulebench.energy.trace import CounterTrace
from joulebench.results.points import EMPTY, Points


@dataclass
class GpuSamples:
    """``gauges``: by metric name. ``throttle``: cumulative seconds by reason."""

    gpu: str
    uuid: str
    energy: CounterTrace = field(default_factory=CounterTrace)
    gauges: dict[str, Points] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    throttle: dict[str, Points] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    instances: set[str] = field(default_factory=set)
    source: str | None = None
    method: str | None = None
    name: str | None = None

    @property
    def seen(self) -> Points:
        """When somebody read this GPU: a card that is lost has no readings."""
        return max(self.gauges.values(), key=len, default=EMPTY)


@dataclass
class Samples:
    """``clock_offsets``: exporter clock minus scrape time. ``clock_steps``: the exporter's count of wall clock jumps."""

    gpus: list[GpuSamples]
    clock_offsets: Points
    clock_steps: Points
