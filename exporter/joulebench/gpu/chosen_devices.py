"""The GPUs of a source that a user named, as a source of their own."""

from __future__ import annotations

from collections.abc import Sequence

from joulebench.devices import Device, DeviceName, resolve_devices
from joulebench.gpu.reading import GpuDevice, GpuSource


class ChosenDevices:
    """A ``GpuSource`` of those GPUs of ``source`` that ``names`` mean, chosen once and kept by UUID.

    Raises UserError for a name that matches no GPU or several, with a list of those that there are.
    """

    def __init__(self, source: GpuSource, names: Sequence[DeviceName], setting: str) -> None:
        self._source = source
        known = [Device("", device.identity.index, device.identity.uuid) for device in source.devices()]
        # The host in front of a name is of no use where there is one source; every name is of this machine.
        own = [DeviceName(None, name.name) for name in names]
        self._uuids = frozenset(device.uuid for device in resolve_devices(own, known, setting))

    @property
    def name(self) -> str:
        return self._source.name

    def devices(self) -> Sequence[GpuDevice]:
        return [device for device in self._source.devices() if device.identity.uuid in self._uuids]

    def scan(self) -> Sequence[str]:
        return self._source.scan()

    def process_name(self, pid: int) -> str | None:
        return self._source.process_name(pid)

    def close(self) -> None:
        self._source.close()
