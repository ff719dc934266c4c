"""Where the outside programs are: Prometheus, promtool, Pushgateway and Alertmanager, under the names that packages give them,
and the OpenMP library that llama.cpp needs, which systems without a compiler often lack.

Searched in this order: the folder in ``JOULEBENCH_PROGRAMS``, ``PATH``, and the cache folder (``~/.cache/joulebench/programs``),
which ``joulebench stack fetch`` fills.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from joulebench.cache import cache_path, why_not_private
from joulebench.errors import UserError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a program comes from. ``executables``: its names, one of which is enough. ``package``: of Debian and Ubuntu.
    ``project``: of the release archives, None where the table of releases has none. ``is_library``: the names are those of a
    shared library."""

    executables: tuple[str, ...]
    package: str
    project: str | None
    is_library: bool = False


SOURCES: dict[str, Source] = {
    "prometheus": Source(("prometheus",), "prometheus", "prometheus"),
    "promtool": Source(("promtool",), "prometheus", "prometheus"),
    "pushgateway": Source(("pushgateway", "prometheus-pushgateway"), "prometheus-pushgateway", "pushgateway"),
    "alertmanager": Source(("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager", "alertmanager"),
    "victoriametrics": Source(("victoria-metrics", "victoria-metrics-prod"), "victoria-metrics", None),
    "openmp": Source(("libgomp.so.1",), "libgomp1", None, is_library=True),
}
STACK = ("prometheus", "promtool", "pushgateway", "alertmanager")
"""What ``joulebench up`` starts, and the tool that checks its configuration."""


def programs_folder() -> Path:
    return cache_path("programs")


def package_folder(program: str) -> Path:
    """Where the package of ``program`` is unpacked: its executables lie in ``usr/bin`` below it."""
    return programs_folder() / SOURCES[program].package


def find(program: str) -> Path | None:
    """Return the path of the executable or library, None where it is not installed; of an installed library, its name alone. A
    cache folder that another local user could write to is not searched."""
    source, unpacked = SOURCES[program], package_folder(program)
    is_unpacked = unpacked.is_dir() and why_not_private(unpacked.resolve()) is None
    if source.is_library:
        return _find_library(source, unpacked.resolve() if is_unpacked else None)
    places = [os.environ.get("JOULEBENCH_PROGRAMS"), os.environ.get("PATH")]
    if is_unpacked:
        places.append(str(unpacked.resolve() / "usr/bin"))
    for place in places:
        for name in source.executables:
            executable = shutil.which(name, path=place) if place else None
            if executable:
                return Path(executable)
    return None


def _find_library(source: Source, unpacked: Path | None) -> Path | None:
    for name in source.executables:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return Path(name)
        if unpacked is not None:
            for path in sorted(unpacked.glob(f"usr/lib/**/{name}")):
                return path
    return None


def library_environment(library: str) -> dict[str, str]:
    """Return the environment variables with which a process finds a library that was downloaded, none where it is installed.
    Raises UserError where it is neither."""
    path = find(library)
    if path is None:
        source = SOURCES[library]
        raise UserError(
            f"{source.executables[0]} is not installed; 'joulebench stack fetch {library}' downloads it on Debian and Ubuntu,"
            f" elsewhere install the package that has it (such as {source.package})"
        )
    if not path.is_absolute():
        return {}
    paths = [str(path.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


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
