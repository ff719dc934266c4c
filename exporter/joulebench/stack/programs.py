"""Where the outside programs are: Prometheus, promtool, Pushgateway and Alertmanager, under the names that packages give them.

Searched in this order: the folder in ``JOULEBENCH_PROGRAMS``, ``PATH``, and the cache folder (``~/.cache/joulebench/programs``),
which ``joulebench stack fetch`` fills.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from joulebench.cache import cache_path, why_not_private
from joulebench.errors import UserError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a program comes from. ``executables``: its names, one of which is enough. ``package``: of Debian and Ubuntu.
    ``project``: of the release archives, None where the table of releases has none."""

    executables: tuple[str, ...]
    package: str
    project: str | None


SOURCES: dict[str, Source] = {
    "prometheus": Source(("prometheus",), "prometheus", "prometheus"),
    "promtool": Source(("promtool",), "prometheus", "prometheus"),
    "pushgateway": Source(("pushgateway", "prometheus-pushgateway"), "prometheus-pushgateway", "pushgateway"),
    "alertmanager": Source(("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager", "alertmanager"),
    "victoriametrics": Source(("victoria-metrics", "victoria-metrics-prod"), "victoria-metrics", None),
}
STACK = ("prometheus", "promtool", "pushgateway", "alertmanager")
"""What ``joulebench up`` starts, and the tool that checks its configuration."""


def programs_folder() -> Path:
    return cache_path("programs")


def package_folder(program: str) -> Path:
    """Where the package of ``program`` is unpacked: its executables lie in ``usr/bin`` below it."""
    return programs_folder() / SOURCES[program].package


def find(program: str) -> Path | None:
    """Return the path of the executable, None where the program is not installed. A cache folder that another local user could
    write to is not searched."""
    places = [os.environ.get("JOULEBENCH_PROGRAMS"), os.environ.get("PATH")]
    unpacked = package_folder(program)
    if unpacked.is_dir() and why_not_private(unpacked.resolve()) is None:
        places.append(str(unpacked.resolve() / "usr/bin"))
    for place in places:
        for name in SOURCES[program].executables:
            executable = shutil.which(name, path=place) if place else None
            if executable:
                return Path(executable)
    return None


def require(program: str) -> Path:
    executable = find(program)
    if executable is None:
        raise UserError(f"{program} is not installed; 'joulebench stack fetch' downloads it, or put it on PATH")
    return executable


def working_directory(executable: Path) -> Path | None:
    """Return the folder in which to start ``executable``: an unpacked Debian package looks for its templates and pages below it
    (see ``debian.py``). None where it does not matter."""
    folder = programs_folder().resolve()
    return folder / executable.relative_to(folder).parts[0] if executable.is_relative_to(folder) else None
