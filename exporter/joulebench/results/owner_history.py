"""Which devices the server of a task used in its window, by the owner series that Prometheus stored.

It answers what an exporter answers by ``basis: observed``, for tasks of which no exporter's answer is left. The value of a start
or an end is the time of the event, so that a scrape long before or shortly after a window dates what happened in it. Where it is
not sure that all devices of the owner are known, the answer is none at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from joulebench import metrics
from joulebench.clients.matrix import Column
from joulebench.clients.prometheus import PrometheusApi, Series
from joulebench.devices import is_host, parse_server, serves
from joulebench.energy.devices import InstanceWork, instance_shares
from joulebench.errors import PrometheusError, UserError
from joulebench.metrics.label_sets import OWNER
from joulebench.results import queries
from joulebench.results.fetch import CHUNK_SECONDS, GpuSamples, chunks, fetch_in_parts, union
from joulebench.results.task import ObservedDevice, ServingOwner, Task
from joulebench.results.timeseries import EMPTY, TimeSeries, Window, window_means
from joulebench.settings import is_loopback

MISSED_SCRAPES = 2
"""Scrapes for which a use without an end is taken to go on after its last sample."""
USUAL_SCRAPE_SECONDS = 5.0

OwnerValues = tuple[str, ...]
"""Values of the labels ``OWNER``."""
Host = frozenset[str]
"""The scrape targets that have the same GPUs."""
NOBODY: OwnerValues = ("",) * len(OWNER)
"""Of processes that the exporter cannot see in /proc."""


class DeviceUser(NamedTuple):
    """An owner on a GPU, or on the MIG instance ``mig`` of it."""

    uuid: str
    mig: str
    owner: OwnerValues


@dataclass(frozen=True, slots=True)
class StoredUse:
    """Processes of an owner had memory on a device from ``start`` to ``end``, unix seconds; ``end``: at least until then."""

    user: DeviceUser
    start: float
    end: float


@dataclass
class OwnerHistory:
    """``dropped``: by GPU, (start, end, most owners that its exporter left out) of each stretch in which it listed processes.
    ``instances``: parent and SMs of each MIG instance; ``activity``: their busy share over time."""

    uses: dict[str, list[StoredUse]] = field(default_factory=lambda: defaultdict(list))
    dropped: dict[str, list[tuple[float, float, float]]] = field(default_factory=lambda: defaultdict(list))
    instances: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    activity: dict[str, TimeSeries] = field(default_factory=dict)

    def observed_devices(self, task: Task, gpus: Sequence[GpuSamples]) -> tuple[ObservedDevice, ...]:
        """Returns the devices that the owner of a task used in its window; empty where they, or some of them, are not known.

        ``gpus``: all GPUs of which samples are stored.
        """
        if task.window is None:
            return ()
        hosts: defaultdict[Host, list[GpuSamples]] = defaultdict(list)
        for gpu in gpus:
            hosts[frozenset(gpu.instances)].append(gpu)
        owner = task.owner
        choices = []
        if owner.job is not None and (owner.server is None or len(hosts) > 1):
            choices.append(ServingOwner(job=owner.job))
        if owner.server is not None:
            choices.append(ServingOwner(owner.server))
        for choice in choices:
            if devices := self._devices_of(choice, task, hosts, task.window):
                return devices
        return ()

    def _devices_of(
        self, owner: ServingOwner, task: Task, hosts: Mapping[Host, Sequence[GpuSamples]], window: Window
    ) -> tuple[ObservedDevice, ...]:
        own = {host: self._users(gpus, window, owner) for host, gpus in hosts.items()}
        chosen = self._hosts_of(owner, task, hosts, own, window)
        if any(
            self._lacks_owners(gpu.uuid, window) and gpu.uuid not in {u.uuid for u in own[h]} for h in chosen for gpu in hosts[h]
        ):
            return ()
        return tuple(device for host in chosen for gpu in hosts[host] for device in self._devices_on(gpu, own[host], window))

    def _users(self, gpus: Sequence[GpuSamples], window: Window, owner: ServingOwner | None = None) -> list[DeviceUser]:
        """Who used the GPUs in the window, or the users that belong to ``owner``."""
        start, end = window
        users = dict.fromkeys(
            use.user for gpu in gpus for use in self.uses.get(gpu.uuid, ()) if use.start <= end and use.end >= start
        )
        return [user for user in users if owner is None or _belongs(user, owner)]

    def _hosts_of(
        self,
        owner: ServingOwner,
        task: Task,
        hosts: Mapping[Host, Sequence[GpuSamples]],
        own: Mapping[Host, Sequence[DeviceUser]],
        window: Window,
    ) -> list[Host]:
        """Returns the hosts on which the owner's processes are: of a job all that have some, of a server the one of its address;
        else the only one that has such a server, if none of the others can have it, too."""
        matching = [host for host, users in own.items() if users]
        if owner.server is not None:
            named = _hosts_of_server(owner.server[0], task.key.worker, hosts)
            if named:
                return [host for host in named if host in matching]
            if len(matching) > 1:
                return []
        silent = (host for host in hosts if host not in matching and not self._knows_all_owners(hosts[host], window))
        return [] if next(silent, None) else matching

    def _knows_all_owners(self, gpus: Sequence[GpuSamples], window: Window) -> bool:
        if any(user.owner == NOBODY for user in self._users(gpus, window)):
            return False
        return all(self._is_listed(gpu.uuid, window) and not self._lacks_owners(gpu.uuid, window) for gpu in gpus)

    def _is_listed(self, uuid: str, window: Window) -> bool:
        return any(start <= window[1] and end >= window[0] for start, end, _ in self.dropped.get(uuid, ()))

    def _lacks_owners(self, uuid: str, window: Window) -> bool:
        """Whether there were more owners on the GPU than its exporter shows."""
        stretches = self.dropped.get(uuid, ())
        return any(left_out > 0 for start, end, left_out in stretches if start <= window[1] and end >= window[0])

    def _devices_on(self, gpu: GpuSamples, own: Sequence[DeviceUser], window: Window) -> Iterator[ObservedDevice]:
        places = dict.fromkeys(user.mig for user in own if user.uuid == gpu.uuid)
        users = self._users([gpu], window) if places else []
        host = next(iter(gpu.instances)) if len(gpu.instances) == 1 else None
        shares = self._instance_shares(gpu.uuid, users, window) if any(places) else {}
        for mig in places:
            device = ObservedDevice(gpu.gpu, mig or gpu.uuid, host, gpu.uuid if mig else None, share=shares.get(mig))
            others = any(user.mig == mig and user not in own for user in users)
            yield replace(device, is_shared=others, share=None if others else device.share)

    def _instance_shares(self, uuid: str, users: Sequence[DeviceUser], window: Window) -> Mapping[str, float | None]:
        """The part of the GPU's energy by MIG instance."""
        used = {user.mig for user in users}
        here = [mig for mig, (parent, _) in self.instances.items() if parent == uuid]
        means = {mig: window_means(self.activity.get(mig, EMPTY), [window])[0] for mig in here}
        return instance_shares({mig: InstanceWork(self.instances[mig][1], means[mig], mig in used) for mig in here})


def _belongs(user: DeviceUser, owner: ServingOwner) -> bool:
    labels = dict(zip(OWNER, user.owner, strict=True))
    if owner.job is not None:
        return labels["slurm_job"] == owner.job
    return owner.server is not None and serves(labels["server"], owner.server)


def _hosts_of_server(name: str, worker: str, hosts: Iterable[Host]) -> list[Host]:
    """The hosts that an address of a server names; that of the benchmark, by the name of its worker, where it is of its own
    machine; empty where that cannot be said."""
    if not is_loopback(name):
        return [host for host in hosts if any(is_host(name, target) for target in host)]
    machine = worker.rpartition("-")[0]
    own = [host for host in hosts if machine and any(is_host(machine, target) for target in host)]
    return own or [host for host in hosts if all(is_loopback(_name(target)) for target in host)]


def _name(target: str) -> str:
    return (target.rpartition(":")[0] or target).strip("[]")


def observe_devices(
    api: PrometheusApi | None,
    tasks: Sequence[Task],
    gpus: Sequence[GpuSamples],
    server: str | None = None,
    *,
    equal: Mapping[str, str] | None = None,
    chunk: float = CHUNK_SECONDS,
) -> tuple[list[Task], list[str]]:
    """(the tasks, with the devices that their servers used where neither an exporter nor a declaration names them; notes).

    ``server``: HOST:PORT or URL, of tasks whose run did not name its server. Raises UserError for what is no address.
    """
    given = ServingOwner()
    if server is not None:
        try:
            given = ServingOwner(parse_server(server))
        except ValueError as error:
            raise UserError(f"--server: {error}") from error
    owned = [task if task.owner != ServingOwner() else replace(task, owner=given) for task in tasks]
    open_tasks = [
        task
        for task in owned
        if task.window is not None
        and task.owner != ServingOwner()
        and not task.declared_devices
        and not task.exporter_energy
        and not task.used_gpus
        and task.exporter_source is None
    ]
    if api is None or not open_tasks or not gpus:
        return owned, []
    try:
        history = fetch_owner_history(api, [task.window for task in open_tasks if task.window is not None], equal, chunk=chunk)
    except PrometheusError as error:
        return owned, [f"the GPUs that the server used are not known: {error}"]
    observed = {task.key: history.observed_devices(task, gpus) for task in open_tasks}
    return [replace(task, observed_devices=observed.get(task.key, ())) for task in owned], []


# --- reading --------------------------------------------------------------------------------------------------------------------


def fetch_owner_history(
    api: PrometheusApi, windows: Sequence[Window], equal: Mapping[str, str] | None = None, *, chunk: float = CHUNK_SECONDS
) -> OwnerHistory:
    """The owners of all GPUs around the windows, by a few queries for each chunk of time. Raises PrometheusError."""
    history = OwnerHistory()
    ends: dict[tuple[DeviceUser, float], float] = {}
    activity: defaultdict[str, list[TimeSeries]] = defaultdict(list)
    for start, end in chunks(union(windows), chunk):
        for part in fetch_in_parts(lambda start, end: _fetch_chunk(api, start, end, equal or {}), start, end):
            for use in part.uses:
                place = use.user, use.start
                ends[place] = max(ends.get(place, use.end), use.end)
            for uuid, left_out in part.dropped.items():
                history.dropped[uuid].append((part.start, part.end, left_out))
            history.instances |= part.instances
            for mig, series in part.activity.items():
                activity[mig].append(series)
    for (user, start), end in ends.items():
        history.uses[user.uuid].append(StoredUse(user, start, end))
    history.activity = {mig: TimeSeries.joined(parts) for mig, parts in activity.items()}
    return history


@dataclass
class _Chunk:
    start: float
    end: float
    uses: list[StoredUse]
    dropped: dict[str, float]
    instances: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    activity: dict[str, TimeSeries] = field(default_factory=dict)


def _fetch_chunk(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> _Chunk:
    """Samples of starts are fetched only where an owner came, went or came back: else the last value of each says it all."""
    seconds = end - start
    starts_of, ends_of = queries.OWNER_METRICS

    def columns(metric: metrics.Metric) -> list[Column]:
        query = queries.raw(metric, seconds, equal)
        return [column for column in api.columns(api.raw(query, end), query) if len(column.at)]

    ends = {_identity(column.labels): column for column in columns(ends_of)}
    if ends or api.query(queries.changed(starts_of, seconds, equal), end):
        uses = [use for column in columns(starts_of) for use in _uses(column, ends.get(_identity(column.labels)))]
    else:
        stored = api.query(queries.last(starts_of, seconds, equal), end)
        uses = [StoredUse(_user(one.labels), one.points[-1][1], end) for one in stored]
    left_out = api.query(queries.highest(metrics.GPU_PROCESS_OWNERS_DROPPED, seconds, equal), end)
    part = _Chunk(start, end, uses, {one.labels.get("uuid", ""): one.points[-1][1] for one in left_out})
    if any(use.user.mig for use in uses):
        infos = api.query(queries.last(metrics.GPU_MIG_INFO, seconds, equal), end)
        part.instances = dict(map(_instance, infos))
        for column in columns(metrics.GPU_MIG_UTILIZATION):
            part.activity[column.labels.get("mig", "")] = TimeSeries(column.at, column.value)
    return part


def _uses(starts: Column, ends: Column | None) -> Iterator[StoredUse]:
    """The uses of one owner on one device. An end that is shown no more while the start still is was followed by another use."""
    user = _user(starts.labels)
    usual = float(np.median(np.diff(starts.at))) if len(starts.at) > 1 else USUAL_SCRAPE_SECONDS
    beyond = max(USUAL_SCRAPE_SECONDS, MISSED_SCRAPES * usual)
    ended = {} if ends is None else dict(zip(ends.at.tolist(), ends.value.tolist(), strict=True))
    absences = {end: at for at, end in ended.items()}
    for start, seen in dict(zip(starts.value.tolist(), starts.at.tolist(), strict=True)).items():
        begun = start
        for end, shown_until in absences.items():
            if start <= end and shown_until < seen:
                yield StoredUse(user, begun, end)
                begun = shown_until
        yield StoredUse(user, begun, ended.get(seen, seen + beyond))


def _user(labels: Mapping[str, str]) -> DeviceUser:
    return DeviceUser(labels.get("uuid", ""), labels.get("mig", ""), tuple(labels.get(name, "") for name in OWNER))


def _instance(info: Series) -> tuple[str, tuple[str, int | None]]:
    cores = info.labels.get("multiprocessors", "")
    return info.labels.get("mig", ""), (info.labels.get("uuid", ""), int(cores) if cores.isdecimal() else None)


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "__name__")
