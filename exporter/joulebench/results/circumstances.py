"""What surrounded the tasks beside the readings of every GPU: what a model server told of its memory and its queue, bytes over
PCIe and NVLink, and the clock of a card whose power limit held it down.

Few machines have all of it, so each is one query that mostly finds nothing. What nobody told is absent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from joulebench import metrics
from joulebench.clients.matrix import Times
from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import QueryRefused
from joulebench.metrics import recorded
from joulebench.results import queries
from joulebench.results.asking import SHORTEST_SECONDS
from joulebench.results.gpu_samples import GpuSamples
from joulebench.results.points import EMPTY, Columns, Points, inside
from joulebench.results.samples import Window, chunks, union

OLLAMA = tuple(
    metric.name
    for metric in (
        metrics.OLLAMA_MODEL_SIZE,
        metrics.OLLAMA_MODEL_VRAM,
        metrics.OLLAMA_MODEL_OFFLOAD,
        metrics.OLLAMA_MODEL_CONTEXT,
        metrics.OLLAMA_MODEL_KV_CACHE,
        metrics.OLLAMA_MODEL_LOADS,
    )
)
RECORDED = (recorded.SERVER_KV_CACHE, recorded.SERVER_RUNNING, recorded.SERVER_WAITING)
CLOCK = "sm"
CHUNK_SECONDS = 6 * 3600.0
"""Longer than those of the energy: mostly there is nothing to fetch, and each question costs its own time."""
RECENT_SECONDS = 300.0
"""How far back the size of a card's memory is looked for, which does not change."""

Link = tuple[str, str, str]
"""(uuid, link, direction)"""


@dataclass
class Circumstances:
    """``servers``: by series name and model, then by who told. ``clocks`` and ``clocks_max``: SM clock by uuid, in hertz, of GPUs
    whose power limit held them down at some time. ``memory``: bytes of each card, by uuid."""

    servers: dict[tuple[str, str], dict[str, Points]] = field(default_factory=dict)
    links: dict[Link, Points] = field(default_factory=dict)
    clocks: dict[str, Points] = field(default_factory=dict)
    clocks_max: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def server(self, name: str, model: str | None) -> Points:
        """Of the one server that told of this model; none where several did, for nobody knows which of them worked."""
        told = self.servers.get((name, model or "")) or self.servers.get((name, f"{model}:latest")) or {}
        return next(iter(told.values())) if len(told) == 1 else EMPTY


def fetch(
    api: PrometheusApi,
    windows: Sequence[Window],
    equal: Mapping[str, str],
    gpus: Sequence[GpuSamples],
    chunk: float = CHUNK_SECONDS,
) -> Circumstances:
    """Around all windows. ``equal``: labels of the exporter's series. ``gpus``: as they were stored, with what held them down.

    Raises PrometheusError.
    """
    collected = _Collected(api, equal, [gpu.throttle.get("sw_power_cap", EMPTY) for gpu in gpus])
    for start, end in chunks(union(windows), chunk):
        collected.add(start, end)
    return collected.whole()


@dataclass
class _Collected:
    """Parts by series; one that came twice counts once. ``caps``: of each GPU, its cumulative seconds at the power limit."""

    api: PrometheusApi
    equal: Mapping[str, str]
    caps: Sequence[Points]
    servers: defaultdict[tuple[str, str, str], list[Columns]] = field(default_factory=lambda: defaultdict(list))
    links: defaultdict[Link, list[Columns]] = field(default_factory=lambda: defaultdict(list))
    clocks: defaultdict[str, list[Columns]] = field(default_factory=lambda: defaultdict(list))
    clocks_max: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def add(self, start: float, end: float) -> None:
        """In parts where the store refuses to load so much at once."""
        try:
            self._add(start, end)
        except QueryRefused:
            if end - start < 2 * SHORTEST_SECONDS:
                raise
            middle = round((start + end) / 2, 3)
            self.add(start, middle)
            self.add(middle, end)

    def _add(self, start: float, end: float) -> None:
        api, equal, seconds = self.api, self.equal, end - start
        for labels, points in _columns(api, queries.raw_names((*OLLAMA, *RECORDED), seconds), end):
            name, instance = labels.get("__name__", ""), labels.get("instance", "")
            if name not in OLLAMA or all(labels.get(key) == value for key, value in equal.items()):
                self.servers[name, labels.get("model", ""), instance].append(points)
        for labels, points in _columns(api, queries.raw(metrics.GPU_LINK_BYTES, seconds, equal), end):
            self.links[labels.get("uuid", ""), labels.get("link", ""), labels.get("direction", "")].append(points)
        for one in api.query(queries.last(metrics.GPU_MEMORY_TOTAL, min(seconds, RECENT_SECONDS), equal), end):
            self.memory[one.labels.get("uuid", "")] = one.points[-1][1]
        if any(_moved(cap, start, end) for cap in self.caps):
            for labels, points in _columns(api, queries.raw(metrics.GPU_CLOCK, seconds, {**equal, "clock": CLOCK}), end):
                self.clocks[labels.get("uuid", "")].append(points)
            for one in api.query(queries.last(metrics.GPU_CLOCK_MAX, seconds, {**equal, "clock": CLOCK}), end):
                self.clocks_max[one.labels.get("uuid", "")] = one.points[-1][1]

    def whole(self) -> Circumstances:
        servers: dict[tuple[str, str], dict[str, Points]] = {}
        for (name, model, instance), parts in self.servers.items():
            servers.setdefault((name, model), {})[instance] = Columns.joined(parts)
        return Circumstances(
            servers=servers,
            links={key: Columns.joined(parts) for key, parts in self.links.items()},
            clocks={uuid: Columns.joined(parts) for uuid, parts in self.clocks.items()},
            clocks_max=self.clocks_max,
            memory=self.memory,
        )


def _moved(points: Points, start: float, end: float) -> bool:
    within = inside(points, start, end)
    return len(within) > 1 and within[0][1] != within[-1][1]


def _columns(api: PrometheusApi, query: str, at: float) -> list[tuple[dict[str, str], Columns]]:
    times: Times = {}
    found = api.columns(api.raw(query, at), query, times)
    return [(one.labels, Columns(one.at, one.value)) for one in found if len(one.at)]
