"""RAPL zones of ``/sys/class/powercap``: which there are, and their energy counters in microjoules.

The kernel shows them as ``intel-rapl:N`` (a CPU package, or ``psys``, the platform) and ``intel-rapl:N:M`` (a part of it, as
``dram``) on Intel and AMD (Documentation/power/powercap/powercap.rst). ``core`` and ``uncore`` are parts of their package, and
``intel-rapl-mmio`` reads the same counters a second time, so none of these is taken. Since Linux 5.10 only root may read the
counters, because they leak secrets of other processes (CVE-2020-8694).
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench.metrics import HOST_ZONES

log = logging.getLogger(__name__)

POWERCAP = Path("/sys/class/powercap")
ZONE_DIRECTORY = re.compile(r"intel-rapl:\d+(?::\d+)*")
PACKAGE_NAME = re.compile(r"package-(?P<package>\w+(?:-die-\d+)?)")
MAX_BYTES = 64
"""Of a file that has one name or one number."""


@dataclass(frozen=True, slots=True)
class RaplZone:
    """``kind``: one of ``HOST_ZONES``. ``package``: number of the CPU package, ``0-die-1`` for a die of it, empty for psys.

    ``range_microjoules``: highest value, after which the counter goes on from 0; None where the kernel does not give it.
    """

    kind: str
    package: str
    directory: Path
    range_microjoules: int | None

    @property
    def counter(self) -> Path:
        return self.directory / "energy_uj"

    def read_microjoules(self) -> int:
        """Raises OSError where the file cannot be read, ValueError where it has no value that the counter can have."""
        value = int(_read_line(self.counter))
        if value < 0 or (self.range_microjoules is not None and value > self.range_microjoules):
            raise ValueError(f"{value} microjoules are not between 0 and {self.range_microjoules}")
        return value


def find_zones(powercap: Path) -> Sequence[RaplZone]:
    """Returns the zones that are there, readable or not, by kind and package; none where the machine has no RAPL."""
    try:
        directories = sorted(path for path in powercap.iterdir() if ZONE_DIRECTORY.fullmatch(path.name))
    except OSError as error:
        log.debug("no RAPL: %s", error)
        return ()
    names = {path.name: _name(path) for path in directories}
    zones: dict[tuple[str, str], RaplZone] = {}
    for path in directories:
        name = names[path.name]
        top = names.get(":".join(path.name.split(":")[:2]), "")
        package = PACKAGE_NAME.fullmatch(top)
        kind = "package" if PACKAGE_NAME.fullmatch(name) else name
        if kind not in HOST_ZONES:
            continue
        label = "" if package is None else package["package"]
        if (kind, label) in zones:
            # A second platform zone: the number that the kernel gives it distinguishes the two.
            label = path.name.partition(":")[2]
        zones[kind, label] = RaplZone(kind, label, path, _range(path))
    return sorted(zones.values(), key=lambda zone: (HOST_ZONES.index(zone.kind), zone.package))


def explain_failure(zone: RaplZone, error: Exception) -> str:
    """Why a zone cannot be read, and what to do about it."""
    if isinstance(error, PermissionError):
        return (
            f"{zone.counter} may be read by root only; let a group read it with deploy/udev/60-joulebench-rapl.rules and add the"
            " exporter to that group (docs/METERS.md, RAPL)"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{zone.counter} cannot be read: {errno.errorcode.get(error.errno, error.errno)}, {error.strerror}"
    return f"{zone.counter} cannot be read: {error}"


def _name(directory: Path) -> str:
    try:
        return _read_line(directory / "name")
    except (OSError, ValueError):
        return ""


def _range(directory: Path) -> int | None:
    try:
        value = int(_read_line(directory / "max_energy_range_uj"))
    except (OSError, ValueError):
        return None
    return value if value > 0 else None


def _read_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode("ascii").strip()
