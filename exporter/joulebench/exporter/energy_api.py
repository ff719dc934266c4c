"""``GET /api/v1/energy?start=&end=[&wait=][&gpus=][&server=][&scope=][&cuts=][&changes=]``: a window's energy from the ring.

The answer is for the devices that ``gpus`` names, or that a ``server``, ``unit``, ``container``, ``pod`` or ``job`` used in the
window, else for all devices; ``basis`` says which of the three, ``share`` what part of a GPU that several servers used, or that
one of its MIG instances did; ``parent`` is then the UUID of the GPU. ``mig`` lists all instances that there are.

Every answer and every 400 has ``clock``: when the request came and when it was answered, in unix seconds of this machine, by
which a client on another machine finds how far the two clocks are apart (RFC 5905). It then asks for the window in this machine's
time, with ``clock_uncertainty``, the seconds by which that may be wrong: the bounds hold for every window that it may have meant.

``cuts``: rising seconds after the start. Each GPU then has ``parts``, the joules, lower and upper bound between the cuts; not
where others used the GPU, too, since their share is known of the window only. ``changes``: further such seconds, at which power
may change since another task or call began or ended; the parts are better by them (``energy.changes``), and are not cut there.
``end_joules``: the cumulative energy of a GPU at the end of the window. Of two answers, the difference is the energy between the
ends of their windows.

``POST /api/v1/energy`` answers many windows in one request: each line of the body is a query string as above, and the answer has
``answers``, each with ``status`` and ``body``, in the same order. It waits once, for the latest end.

Beside the joules of a GPU stand the seconds for which its clocks were throttled, by reason. A request that cannot be answered
as asked is a 400 that says why; a GPU whose energy is unknown is ``null``, and then so is the total: a sum without it would
pass for the energy of all GPUs. ``scope=host`` asks for the RAPL zones of the host in place of the GPUs, with the same bounds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl

from joulebench.clock import Clock
from joulebench.energy.window import WindowEnergy, total, with_bounds
from joulebench.exporter.device_selection import (
    DEVICE_PARAMETERS,
    Basis,
    DeviceRequest,
    SelectedGpu,
    Selection,
    parse_device_request,
    select_devices,
)
from joulebench.gpu.device_use import GpuUse, InstanceUse, OwnerName
from joulebench.gpu.reading import GpuIdentity, MigInstance
from joulebench.gpu.sampler import as_suspect
from joulebench.host.monitor import ZoneState
from joulebench.host.rapl import RaplZone
from joulebench.schema.reasons import Reason
from joulebench.units import Seconds

MAX_WAIT = 2.0
WAIT_STEP = 0.02
"""Seconds between two looks whether the counters have passed the end of a window."""
MAX_CLOCK_UNCERTAINTY = 5.0
TIME_PARAMETERS = ("cuts", "changes")
KNOWN_PARAMETERS = ("start", "end", "wait", *DEVICE_PARAMETERS, "clock_uncertainty", "scope", *TIME_PARAMETERS)
SCOPES = ("gpu", "host")
MAX_VALUE_LENGTH = 2048
"""Characters of one parameter; names of many devices are long."""
MAX_CUTS, MAX_CUTS_LENGTH = 500, 6000
"""Times that ``cuts`` or ``changes`` may name, and characters of the parameter."""
MAX_WINDOWS = 500
"""Windows of one request."""
MAX_PENDING = 256
"""Requests that wait at a time; a further request is answered by a 503."""

ALL_DEVICES = DeviceRequest()

Counted = TypeVar("Counted", GpuIdentity, RaplZone)
"""What has a counter of its own."""

Answer = tuple[int, dict[str, Any]]
"""HTTP status and the body before it becomes JSON."""
TOO_MANY: Answer = (503, {"error": "too many window energy requests at once; ask again in a moment"})


class WindowSource(Protocol):
    def is_settled(self, end_unix: float) -> bool:
        """Whether every counter has passed this unix time, so that a window that ends there will not get better."""
        ...

    @property
    def has_unnamed_gpus(self) -> bool:
        """Whether a GPU is there whose energy is in no answer, because it could not be named yet."""
        ...

    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        """Energy of every GPU between two unix times, by what is known now."""
        ...

    def parts(
        self, edges_unix: Sequence[float], uncertainty: float, changes_unix: Sequence[float] = ()
    ) -> Sequence[tuple[GpuIdentity, Sequence[WindowEnergy]]]:
        """Energy of every GPU between each two neighbouring unix times, each of which may be off by ``uncertainty`` seconds;
        ``changes_unix``: further times at which power may change."""
        ...

    def throttled(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, Mapping[str, Seconds | None]]]:
        """Throttled seconds of the same GPUs, in the same order, by reason; None where they are unknown."""
        ...

    def device_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[GpuUse | None]:
        """How the same GPUs were used, in the same order; None where that is unknown."""
        ...

    def instance_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[Sequence[InstanceUse]]:
        """The MIG instances of the same GPUs, in the same order."""
        ...

    def refresh_use(self, until_unix: float) -> None:
        """Reads the processes of all GPUs unless they were read after this time. May take the driver milliseconds."""
        ...


class HostWindowSource(Protocol):
    def is_settled(self, end_unix: float) -> bool:
        """As WindowSource.is_settled, of the host's counters."""
        ...

    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[RaplZone, WindowEnergy]]:
        """Energy of every RAPL zone between two unix times, by what is known now."""
        ...

    def snapshot(self) -> Sequence[ZoneState]:
        """Whether each zone can be read, and why not."""
        ...


class BadWindow(Exception):
    """The query string does not ask for a window that can exist."""


@dataclass(frozen=True, slots=True)
class Window:
    start: float
    end: float
    wait: float
    devices: DeviceRequest = ALL_DEVICES
    clock_uncertainty: float = 0.0
    scope: str = "gpu"
    cuts: tuple[float, ...] = ()
    changes: tuple[float, ...] = ()


class EnergyApi:
    """``windows`` is None on an exporter without a GPU: every answer is then a valid one with no GPU in it.
    ``host``: None on an exporter that reads no RAPL: an answer for ``scope=host`` has then no zone in it.

    ``ring_seconds``: length of the monitor's memory. At most ``max_pending`` requests wait at a time; a further one is a 503.
    """

    def __init__(
        self,
        windows: WindowSource | None,
        source: Callable[[], str],
        clock: Clock,
        ring_seconds: float,
        max_pending: int = MAX_PENDING,
        *,
        host: HostWindowSource | None = None,
    ) -> None:
        self._windows = windows
        self._host = host
        self._source = source
        self._clock = clock
        self._ring_seconds = ring_seconds
        self._max_pending = max_pending
        self._pending = 0

    async def answer(self, query: str) -> Answer:
        """Waits at most the request's ``wait`` seconds, without a thread, until the counters have passed the window's end."""
        received = self._clock.unix()
        window = self._parse(query)
        if isinstance(window, Window) and not await self._settle([window]):
            return TOO_MANY
        status, body = await self._status_and_body(window)
        return status, {**body, "clock": {"received": received, "answered": self._clock.unix()}}

    async def answer_many(self, queries: Sequence[str]) -> Answer:
        """Answers each query as ``answer`` does, after one wait."""
        received = self._clock.unix()
        if not 0 < len(queries) <= MAX_WINDOWS:
            return 400, {"error": f"{len(queries)} lines; one request is for 1 to {MAX_WINDOWS} windows, each on a line"}
        windows = [self._parse(query) for query in queries]
        if not await self._settle([window for window in windows if isinstance(window, Window)]):
            return TOO_MANY
        answers: list[dict[str, Any]] = []
        for window in windows:
            status, body = await self._status_and_body(window)
            answers.append({"status": status, "body": body})
            # Scrapes go on meanwhile.
            await asyncio.sleep(0)
        clock = {"received": received, "answered": self._clock.unix()}
        return 200, {"answers": [{**answer, "body": {**answer["body"], "clock": clock}} for answer in answers]}

    def _parse(self, query: str) -> Window | BadWindow:
        try:
            return parse_window(query, self._clock.unix(), self._ring_seconds)
        except BadWindow as error:
            return error

    async def _settle(self, windows: Sequence[Window]) -> bool:
        """Waits until the counters have passed the ends of the windows. Returns False where too many requests wait already."""
        if self._pending >= self._max_pending:
            return False
        self._pending += 1
        try:
            await self._wait_until_settled([window for window in windows if window.scope == "host"], self._host)
            of_gpus = [window for window in windows if window.scope != "host"]
            await self._wait_until_settled(of_gpus, self._windows)
            if self._windows is not None and of_gpus:
                await asyncio.to_thread(self._windows.refresh_use, max(window.end for window in of_gpus))
        finally:
            self._pending -= 1
        return True

    async def _status_and_body(self, window: Window | BadWindow) -> Answer:
        if isinstance(window, BadWindow):
            return 400, {"error": str(window)}
        try:
            if window.scope == "host":
                return 200, self._host_answer(window)
            # Many cuts of many GPUs take milliseconds each, for which a scrape would wait.
            return 200, await asyncio.to_thread(self._answer, window) if window.cuts else self._answer(window)
        except ValueError as error:
            return 400, {"error": str(error)}

    async def _wait_until_settled(self, windows: Sequence[Window], source: WindowSource | HostWindowSource | None) -> None:
        """Waits at most as long as one of the windows may wait."""
        if source is None or not windows:
            return
        deadline = self._clock.monotonic() + max(window.wait for window in windows)
        end = max(window.end + window.clock_uncertainty for window in windows)
        while not source.is_settled(end):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(WAIT_STEP, left))

    def _answer(self, window: Window) -> dict[str, Any]:
        windows = self._windows
        energies = [] if windows is None else _energies(windows.window, window)
        throttled = {} if windows is None else {gpu.uuid: by for gpu, by in windows.throttled(window.start, window.end)}
        parts = {} if windows is None else _energy_by_part(windows, window)
        owner = window.devices.owner
        uses = [] if windows is None else windows.device_use(owner, window.start, window.end)
        instances = [] if windows is None else windows.instance_use(owner, window.start, window.end)
        selection = select_devices(window.devices, energies, uses, instances, window.end - window.start)
        return {
            "start": window.start,
            "end": window.end,
            "basis": selection.basis.value,
            "gpus": [_gpu_json(gpu, throttled[gpu.identity.uuid], parts.get(gpu.identity.uuid)) for gpu in selection.gpus],
            "mig": [_instance_json(part.instance) for parts in instances for part in parts],
            "total": _energy_json(self._total(selection)),
            "source": self._source(),
        }

    def _host_answer(self, window: Window) -> dict[str, Any]:
        """``totals``: by kind of zone, each the sum over the CPU packages, unknown where the energy of a package is.

        Packages and the platform (psys) are never added: the platform contains the packages.
        """
        host = self._host
        energies = [] if host is None else _energies(host.window, window)
        problems = {} if host is None else {state.zone: state.problem for state in host.snapshot()}
        kinds = dict.fromkeys(zone.kind for zone, _ in energies)
        return {
            "start": window.start,
            "end": window.end,
            "scope": window.scope,
            "zones": [_zone_json(zone, energy, problems.get(zone)) for zone, energy in energies],
            "totals": {kind: _energy_json(total(energy for zone, energy in energies if zone.kind == kind)) for kind in kinds},
        }

    def _total(self, selection: Selection) -> WindowEnergy:
        """The sum over the selected GPUs; suspect and without an upper bound where a GPU of the machine could not be named."""
        energy = total(gpu.energy for gpu in selection.gpus)
        if energy.high is not None:
            # Instances of one GPU did not use more together than the GPU.
            by_gpu = {gpu.identity.uuid: gpu.energy.high or 0.0 for gpu in selection.gpus}
            energy = replace(energy, high=min(energy.high, sum(by_gpu.values())))
        windows = self._windows
        if windows is None or not windows.has_unnamed_gpus or selection.basis is not Basis.ASSUMED or not selection.gpus:
            return energy
        return replace(as_suspect(energy, Reason.GPU_MISSING), high=None)


def _energies(
    estimate: Callable[[float, float], Sequence[tuple[Counted, WindowEnergy]]], window: Window
) -> list[tuple[Counted, WindowEnergy]]:
    """The energy of each GPU or zone; the bounds hold for every window whose edges lie within the clock's uncertainty."""
    energies = list(estimate(window.start, window.end))
    shift = window.clock_uncertainty
    if not shift:
        return energies
    least: dict[Counted, float | None] = {counted: 0.0 for counted, _ in energies}
    if window.end - window.start > 2 * shift:
        least = {counted: inner.low for counted, inner in estimate(window.start + shift, window.end - shift)}
    most = {counted: outer.high for counted, outer in estimate(window.start - shift, window.end + shift)}
    return [(counted, with_bounds(energy, least.get(counted), most.get(counted))) for counted, energy in energies]


def _energy_by_part(windows: WindowSource, window: Window) -> dict[str, Sequence[WindowEnergy]]:
    """Energies between the cuts of the window, by UUID."""
    if not window.cuts:
        return {}
    edges = [window.start, *(window.start + cut for cut in window.cuts), window.end]
    changes = [window.start + change for change in window.changes]
    return {gpu.uuid: parts for gpu, parts in windows.parts(edges, window.clock_uncertainty, changes)}


def parse_window(query: str, now: float, ring_seconds: float) -> Window:
    """Raises BadWindow with what is wrong; ``now`` is unix time."""
    given = _parameters(query)
    start, end = _number(given, "start"), _number(given, "end")
    wait = _number(given, "wait") if "wait" in given else 0.0
    if not 0 <= wait <= MAX_WAIT:
        raise BadWindow(f"wait={wait:g} is not between 0 and {MAX_WAIT:g} seconds")
    uncertainty = _number(given, "clock_uncertainty") if "clock_uncertainty" in given else 0.0
    if not 0 <= uncertainty <= MAX_CLOCK_UNCERTAINTY:
        raise BadWindow(f"clock_uncertainty={uncertainty:g} is not between 0 and {MAX_CLOCK_UNCERTAINTY:g} seconds")
    if end > now + MAX_WAIT:
        hint = "; give unix seconds, not milliseconds" if end > 100 * now else ""
        raise BadWindow(
            f"end={given['end']} lies {end - now:.3g} s in the future; at most {MAX_WAIT:g} s can be waited for{hint}"
        )
    if end <= start:
        raise BadWindow(f"end={given['end']} is not after start={given['start']}")
    if end - start > ring_seconds:
        raise BadWindow(
            f"the window is {end - start:.6g} s long, the exporter keeps {ring_seconds:g} s; ask for less"
            " or give it a longer --energy.ring-seconds"
        )
    try:
        devices = parse_device_request({key: value for key, value in given.items() if key in DEVICE_PARAMETERS})
    except ValueError as error:
        raise BadWindow(str(error)) from error
    scope = given.get("scope", "gpu")
    if scope not in SCOPES:
        raise BadWindow(f"scope={scope[:40]!r} is none of {', '.join(SCOPES)}")
    cuts, changes = (_times(name, given.get(name, ""), end - start) for name in TIME_PARAMETERS)
    if scope == "host" and (devices != ALL_DEVICES or cuts or changes):
        raise BadWindow(f"scope=host is for all of the host; leave out {', '.join((*DEVICE_PARAMETERS, *TIME_PARAMETERS))}")
    return Window(start, end, wait, devices, uncertainty, scope, cuts, changes)


def _times(name: str, text: str, seconds: float) -> tuple[float, ...]:
    """Raises BadWindow unless they are seconds after the start that rise within the window."""
    if not text:
        return ()
    try:
        times = [float(time) for time in text.split(",")]
    except ValueError:
        times = [math.nan]
    if len(times) > MAX_CUTS or not all(a < b for a, b in pairwise([0.0, *times, seconds])):
        raise BadWindow(f"{name}={text[:40]!r} are not at most {MAX_CUTS} seconds after the start that rise within the window")
    return tuple(times)


def _parameters(query: str) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in KNOWN_PARAMETERS:
            raise BadWindow(f"unknown parameter {key[:40]!r}; known are {', '.join(KNOWN_PARAMETERS)}")
        if key in given:
            raise BadWindow(f"{key} is given more than once")
        longest = MAX_CUTS_LENGTH if key in TIME_PARAMETERS else MAX_VALUE_LENGTH
        if len(value) > longest:
            raise BadWindow(f"{key} has {len(value)} characters; at most {longest} are read")
        given[key] = value
    return given


def _number(given: Mapping[str, str], key: str) -> float:
    if key not in given:
        raise BadWindow(f"{key} is missing; give it in unix seconds")
    try:
        number = float(given[key])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadWindow(f"{key}={given[key][:40]!r} is not a finite number")
    return number


def _gpu_json(gpu: SelectedGpu, throttled: Mapping[str, Seconds | None], parts: Sequence[WindowEnergy] | None) -> dict[str, Any]:
    # The share of a GPU that others used, too, is known of the window as a whole only.
    is_exclusive = gpu.instance is None and gpu.share in (None, 1.0) and Reason.GPU_SHARED not in gpu.energy.reasons
    rows: dict[str, Any] = {}
    if is_exclusive:
        rows["end_joules"] = gpu.energy.end_joules
        if parts:
            rows["parts"] = [[part.joules, part.low, part.high] for part in parts]
    return {
        **rows,
        "gpu": str(gpu.identity.index),
        "uuid": gpu.identity.uuid if gpu.instance is None else gpu.instance.uuid,
        "parent": None if gpu.instance is None else gpu.identity.uuid,
        "method": gpu.energy.method,
        "samples": gpu.energy.samples,
        **_energy_json(gpu.energy),
        "longest_gap_seconds": gpu.energy.longest_gap,
        "share": gpu.share,
        "throttled_seconds": dict(throttled),
    }


def _zone_json(zone: RaplZone, energy: WindowEnergy, problem: str | None) -> dict[str, Any]:
    return {
        "zone": zone.kind,
        "package": zone.package,
        "method": energy.method,
        "samples": energy.samples,
        **_energy_json(energy),
        "longest_gap_seconds": energy.longest_gap,
        "problem": problem,
    }


def _instance_json(instance: MigInstance) -> dict[str, Any]:
    return {"uuid": instance.uuid, "parent": instance.parent, "profile": instance.profile}


def _energy_json(energy: WindowEnergy) -> dict[str, Any]:
    return {
        "joules": energy.joules,
        "low": energy.low,
        "high": energy.high,
        "quality": energy.quality,
        "reasons": list(energy.reasons),
    }
