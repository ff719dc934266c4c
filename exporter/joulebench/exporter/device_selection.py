"""For which devices of this exporter a window is answered, how that is known, and what part of a shared device counts.

``declared``: the request names the devices. ``observed``: it names a server, unit, container, pod or job, and these devices held
memory of its processes in the window. ``assumed``: all devices of the exporter, since nothing better is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from joulebench.devices import Device, DeviceName, parse_devices, resolve_devices
from joulebench.energy.devices import InstanceWork, are_used_unequally, instance_shares
from joulebench.energy.window import WindowEnergy
from joulebench.errors import UserError
from joulebench.gpu.device_use import GpuUse, InstanceUse, OwnerKind, OwnerName, parse_owner
from joulebench.gpu.reading import GpuIdentity, MigInstance
from joulebench.gpu.sampler import as_suspect
from joulebench.schema.reasons import Reason, quality_of

OWNER_PARAMETERS = tuple(kind.value for kind in OwnerKind)
DEVICE_PARAMETERS = ("gpus", *OWNER_PARAMETERS)
OWN_SHARE = 0.995
"""From this share of the SM time on, a GPU is the owner's alone: the rest is a sample at the edge."""


class Basis(Enum):
    """How the devices of an answer are known."""

    DECLARED = "declared"
    OBSERVED = "observed"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """``gpus``: devices that the request names; ``owner``: whose devices are to be found. Both may be there."""

    gpus: tuple[DeviceName, ...] = ()
    owner: OwnerName | None = None


@dataclass(frozen=True, slots=True)
class SelectedGpu:
    """``energy``: the owner's part of the window. ``share``: its part of the GPU, 0 to 1; None where the GPU is not shared or
    the shares are unknown. ``instance``: the MIG instance of the GPU that it is, None for the GPU itself."""

    identity: GpuIdentity
    energy: WindowEnergy
    share: float | None = None
    instance: MigInstance | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The devices that a window is answered for, in the order of the exporter."""

    basis: Basis
    gpus: tuple[SelectedGpu, ...]


def parse_device_request(parameters: dict[str, str]) -> DeviceRequest:
    """Takes the parameters of ``DEVICE_PARAMETERS``. Raises ValueError saying what is wrong."""
    owners = [kind for kind in OWNER_PARAMETERS if kind in parameters]
    if len(owners) > 1:
        raise ValueError(f"{' and '.join(owners)} are given together; name one owner")
    try:
        gpus = parse_devices(parameters["gpus"], "gpus") if "gpus" in parameters else ()
    except UserError as error:
        raise ValueError(str(error)) from error
    return DeviceRequest(gpus, parse_owner(owners[0], parameters[owners[0]]) if owners else None)


def select_devices(
    request: DeviceRequest,
    energies: Sequence[tuple[GpuIdentity, WindowEnergy]],
    uses: Sequence[GpuUse | None],
    instances: Sequence[Sequence[InstanceUse]],
    seconds: float,
) -> Selection:
    """Chooses the devices of a window of that many seconds. ``uses``: of the same GPUs; None where a GPU's use is unknown.
    ``instances``: the MIG instances of each.

    Raises ValueError for a declared device that is not here, with a list of those that are.
    """
    known = list(zip(energies, uses, instances, strict=True))
    if request.gpus:
        uuids = _declared([(identity, parts) for (identity, _), _, parts in known], request.gpus)
        chosen: list[SelectedGpu] = []
        for gpu, use, parts in known:
            if gpu[0].uuid in uuids:
                chosen.append(_own_part(*gpu, use))
                continue
            chosen += _instance_parts(*gpu, parts, frozenset(part.instance.uuid for part in parts) & uuids)
        return Selection(Basis.DECLARED, tuple(chosen))
    if request.owner is not None:
        chosen = []
        for gpu, use, parts in known:
            own = frozenset(part.instance.uuid for part in parts if part.use is not None and part.use.own)
            if own:
                chosen += _instance_parts(*gpu, parts, own)
            elif use is not None and use.own:
                chosen.append(_own_part(*gpu, use))
        if chosen:
            return Selection(Basis.OBSERVED, tuple(chosen))
    doubtful = _differ(energies, uses, seconds) or any(instances)
    return Selection(
        Basis.ASSUMED,
        tuple(
            SelectedGpu(identity, as_suspect(energy, Reason.DEVICES_ASSUMED.value) if doubtful else energy)
            for identity, energy in energies
        ),
    )


def _declared(gpus: Sequence[tuple[GpuIdentity, Sequence[InstanceUse]]], names: Sequence[DeviceName]) -> frozenset[str]:
    """A host in front of a name was for the client, which asks each host's exporter for its own devices."""
    known = [Device("", identity.index, identity.uuid) for identity, _ in gpus]
    known += [Device("", identity.index, part.instance.uuid, parent=identity.uuid) for identity, parts in gpus for part in parts]
    try:
        return frozenset(
            device.uuid for device in resolve_devices([DeviceName(None, name.name) for name in names], known, "gpus")
        )
    except UserError as error:
        raise ValueError(str(error)) from error


def _instance_parts(
    identity: GpuIdentity, energy: WindowEnergy, parts: Sequence[InstanceUse], own: frozenset[str]
) -> list[SelectedGpu]:
    """The parts of a GPU's energy that the MIG instances ``own`` used: estimates between nothing and all of it.

    An instance whose processes are not seen counts as used.
    """
    work = {
        part.instance.uuid: InstanceWork(
            part.instance.multiprocessors,
            part.activity,
            part.instance.uuid in own or part.use is None or part.use.own or part.use.others,
        )
        for part in parts
    }
    shares = instance_shares(work)
    # What programs on other instances use is no part of it.
    energy = as_suspect(_without(energy, Reason.FOREIGN_PROCESS), Reason.MIG_ESTIMATED.value)
    chosen = []
    for part in parts:
        if part.instance.uuid in own:
            gpu = _share_of(energy, shares[part.instance.uuid])
            if part.use is not None and part.use.own and part.use.others:
                gpu = as_suspect(_share_of(gpu, None), Reason.GPU_SHARED.value)
            chosen.append(SelectedGpu(identity, gpu, shares[part.instance.uuid], part.instance))
    return chosen


def _share_of(energy: WindowEnergy, share: float | None) -> WindowEnergy:
    """An estimate with bounds of nothing and all."""
    joules = None if energy.joules is None or share is None else energy.joules * share
    part = replace(energy, joules=joules, low=None if energy.low is None else 0.0)
    return part if joules is not None else replace(part, quality="missing")


def _own_part(identity: GpuIdentity, energy: WindowEnergy, use: GpuUse | None) -> SelectedGpu:
    """The owner's part of a GPU: all of it, or by SM time an estimate between nothing and all of it."""
    if use is None or not use.own:
        return SelectedGpu(identity, energy)
    if not use.others:
        # A program that is not expected on a GPU is so where it is the owner itself.
        return SelectedGpu(identity, _without(energy, Reason.FOREIGN_PROCESS))
    if use.share is not None and use.share >= OWN_SHARE:
        return SelectedGpu(identity, energy)
    return SelectedGpu(identity, as_suspect(_share_of(energy, use.share), Reason.GPU_SHARED.value), use.share)


def _differ(energies: Sequence[tuple[GpuIdentity, WindowEnergy]], uses: Sequence[GpuUse | None], seconds: float) -> bool:
    """Whether several devices were used so differently that they hardly served one task."""
    occupied = {use.own or use.others for use in uses if use is not None}
    if len(energies) > 1 and len(occupied) > 1:
        return True
    return are_used_unequally([energy.joules for _, energy in energies], seconds)


def _without(energy: WindowEnergy, reason: Reason) -> WindowEnergy:
    if reason not in energy.reasons:
        return energy
    rest = tuple(other for other in energy.reasons if other != reason)
    return replace(energy, reasons=rest, quality=energy.quality if energy.joules is None else quality_of(rest))
