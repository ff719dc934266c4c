"""What Prometheus has beside the readings of every GPU: a model server's memory and queue, bytes over PCIe and NVLink, and the
clock of a card whose power limit held it down.

Few machines have all of it, so each is one query that mostly finds nothing. What is not reported is absent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.metrics import DIRECTIONS, LINKS, recorded
from joulebench.results import queries
from joulebench.results.fetch import GpuSamples, chunks, fetch_in_parts, union
from joulebench.results.timeseries import EMPTY, TimeSeries, Window, gauge_stats, increase
from joulebench.schema.result import CappedClock, LinkBytes, ModelServer, SampleCounts

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

NEAR_SECONDS = 5.0
"""Memory of a loaded model does not change from second to second: a sample this far beside a short task still holds for it."""
CLOCK_SECONDS = 1.0
"""How old the clock is at most when it is scraped."""
LATE_SECONDS = 2.0
"""By which a counter that is read once a second lies behind what is scraped."""

Link = tuple[str, str, str]
"""(uuid, link, direction)"""


@dataclass
class ServerMetrics:
    """``servers``: by series name and model, then by instance. ``clocks`` and ``clocks_max``: SM clock by uuid, in hertz, of GPUs
    whose power limit held them down at some time. ``memory``: bytes of each card, by uuid."""

    servers: dict[tuple[str, str], dict[str, TimeSeries]] = field(default_factory=dict)
    links: dict[Link, TimeSeries] = field(default_factory=dict)
    clocks: dict[str, TimeSeries] = field(default_factory=dict)
    clocks_max: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def of_call(self, model: str | None, start: float, end: float) -> tuple[float | None, float | None]:
        """(highest use of the KV cache, most running requests) of a call; None where no sample fell into it."""
        series = (self.server(name, model) for name in (recorded.SERVER_KV_CACHE, recorded.SERVER_RUNNING))
        cache, running = (one.between(start, end).value if len(one) else EMPTY.value for one in series)
        return float(cache.max()) if len(cache) else None, float(running.max()) if len(running) else None

    def server(self, name: str, model: str | None) -> TimeSeries:
        """Of the one server that reports this model; none where several do, for it is not known which of them worked."""
        reported = self.servers.get((name, model or "")) or self.servers.get((name, f"{model}:latest")) or {}
        return next(iter(reported.values())) if len(reported) == 1 else EMPTY


def fetch_server_metrics(
    api: PrometheusApi,
    windows: Sequence[Window],
    equal: Mapping[str, str],
    gpus: Sequence[GpuSamples],
    chunk: float = CHUNK_SECONDS,
) -> ServerMetrics:
    """Around all windows. ``equal``: labels of the exporter's series. ``gpus``: as they were stored, with what held them down.

    Raises PrometheusError.
    """
    collector = _Collector(api, equal, [gpu.throttle.get(metrics.POWER_CAP, EMPTY) for gpu in gpus])
    for start, end in chunks(union(windows), chunk):
        collector.add(start, end)
    return collector.server_metrics()


@dataclass
class _Collector:
    """Parts by series. ``caps``: of each GPU, its cumulative seconds at the power limit."""

    api: PrometheusApi
    equal: Mapping[str, str]
    caps: Sequence[TimeSeries]
    servers: defaultdict[tuple[str, str, str], list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    links: defaultdict[Link, list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    clocks: defaultdict[str, list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    clocks_max: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def add(self, start: float, end: float) -> None:
        """In parts where the store refuses to load so much at once."""
        fetch_in_parts(self._add, start, end)

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

    def server_metrics(self) -> ServerMetrics:
        servers: dict[tuple[str, str], dict[str, TimeSeries]] = {}
        for (name, model, instance), parts in self.servers.items():
            servers.setdefault((name, model), {})[instance] = TimeSeries.joined(parts)
        return ServerMetrics(
            servers=servers,
            links={key: TimeSeries.joined(parts) for key, parts in self.links.items()},
            clocks={uuid: TimeSeries.joined(parts) for uuid, parts in self.clocks.items()},
            clocks_max=self.clocks_max,
            memory=self.memory,
        )


def _moved(series: TimeSeries, start: float, end: float) -> bool:
    values = series.between(start, end).value
    return len(values) > 1 and bool(values[0] != values[-1])


def _columns(api: PrometheusApi, query: str, at: float) -> list[tuple[dict[str, str], TimeSeries]]:
    columns = api.columns(api.raw(query, at), query)
    return [(column.labels, TimeSeries(column.at, column.value)) for column in columns if len(column.at)]


def model_server(servers: ServerMetrics, model: str | None, start: float, end: float) -> ModelServer:
    """Bytes, tokens and ratios as the server reports them; null where it does not, or where several serve this model.

    ``offload_ratio``: share of the model in GPU memory, mean over the task. ``running_requests`` and ``waiting_requests``: means
    over the task of what the server works on and of its queue, whoever sent them. ``samples``: behind either group.
    """
    size, vram, ratio, context, cache = (
        servers.server(metric.name, model)
        for metric in (
            metrics.OLLAMA_MODEL_SIZE,
            metrics.OLLAMA_MODEL_VRAM,
            metrics.OLLAMA_MODEL_OFFLOAD,
            metrics.OLLAMA_MODEL_CONTEXT,
            metrics.OLLAMA_MODEL_KV_CACHE,
        )
    )
    shares = _near(ratio, start, end)
    names = (recorded.SERVER_WAITING, recorded.SERVER_KV_CACHE, recorded.SERVER_RUNNING)
    stats = gauge_stats([servers.server(name, model) for name in names], [(start, end)])
    waiting, used, running = (one for (one,) in stats)
    return ModelServer(
        size_bytes=_last(_near(size, start, end)),
        vram_bytes=_last(_near(vram, start, end)),
        offload_ratio=sum(shares) / len(shares) if shares else None,
        context_tokens=_last(_near(context, start, end)),
        kv_cache_bytes=_last(_near(cache, start, end)),
        loads=increase(servers.server(metrics.OLLAMA_MODEL_LOADS.name, model), start, end),
        kv_cache_ratio_max=used.high if used else None,
        running_requests=running.mean if running else None,
        running_requests_max=running.high if running else None,
        waiting_requests=waiting.mean if waiting else None,
        samples=SampleCounts(memory=len(shares), queue=(waiting.samples if waiting else 0)),
    )


def link_bytes(servers: ServerMetrics, uuid: str, start: float, end: float) -> dict[str, dict[str, LinkBytes]]:
    """By link and direction; a link that the card does not count is not there.

    ``low`` and ``high`` bound the bytes, whatever moved between two samples.
    """
    found: dict[str, dict[str, LinkBytes]] = {}
    for link in LINKS:
        for direction in DIRECTIONS:
            series = servers.links.get((uuid, link, direction), EMPTY)
            if (moved := increase(series, start, end)) is not None:
                low, high = _bounds(series, start, end)
                found.setdefault(link, {})[direction] = LinkBytes(bytes=moved, low=low, high=high)
    return found


def capped_clock(servers: ServerMetrics, uuid: str, cap: TimeSeries, start: float, end: float) -> CappedClock | None:
    """SM clock while the power limit lowered it, in hertz: its mean by the seconds that ``cap``, cumulative, grew in the second
    before each sample. None where it never did or no clock is known.

    A clock is read up to ``CLOCK_SECONDS`` before its scrape. So a sample counts only where the power was at the limit before and
    after that time too: at the edges of a load it would be the clock of an idle card.
    """
    clock = servers.clocks.get(uuid, EMPTY).between(start, end)
    total = weighted = 0.0
    lowest: list[float] = []
    for at, hertz in clock:
        read_at = at - CLOCK_SECONDS
        grew = increase(cap, read_at, at)
        if grew and increase(cap, read_at - CLOCK_SECONDS, read_at) and increase(cap, at, at + CLOCK_SECONDS):
            total += grew
            weighted += grew * hertz
            lowest.append(hertz)
    if not total:
        return None
    return CappedClock(
        capped_hz=weighted / total,
        capped_low_hz=min(lowest),
        max_hz=servers.clocks_max.get(uuid),
        samples=len(lowest),
    )


def _bounds(series: TimeSeries, start: float, end: float) -> tuple[float, float | None]:
    """Least and most bytes, whatever moved between two samples; None where the samples do not reach around the window."""
    at, value = series.at, series.value
    first, last = int(at.searchsorted(start + LATE_SECONDS)), int(at.searchsorted(end, "right")) - 1
    before, after = int(at.searchsorted(start, "right")) - 1, int(at.searchsorted(end + LATE_SECONDS))
    low = max(float(value[last] - value[first]), 0.0) if first <= last else 0.0
    high = float(value[after] - value[before]) if before >= 0 and after < len(at) else None
    return low, None if high is None or high < 0 else high


def _near(series: TimeSeries, start: float, end: float) -> list[float]:
    """Values inside the window, else that of the nearest sample beside it."""
    if not len(series):
        return []
    found: list[float] = series.between(start, end).value.tolist()
    if found:
        return found
    beside = series.between(start - NEAR_SECONDS, end + NEAR_SECONDS)
    nearest = min(beside, key=lambda sample: max(start - sample[0], sample[0] - end), default=None)
    return [] if nearest is None else [nearest[1]]


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None
