"""Downloads the programs that are not installed into the cache folder, from which ``programs.find`` gives them.

No root is needed and nothing is installed: on Debian and Ubuntu apt downloads their packages, elsewhere, and where apt fails,
the projects' release archives are used.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from joulebench.cache import locked, private_folder
from joulebench.errors import ProcessError, UserError
from joulebench.stack import debian, programs, releases

Say = Callable[[str], None]


def fetch_missing(names: Sequence[str], say: Say) -> dict[str, str]:
    """Download what ``programs.find`` does not give of ``names``. Return why, by name, for each that could not be had.

    ``say`` gets a line before each step that takes a while.
    """
    missing = [name for name in names if programs.find(name) is None]
    if not missing:
        return {}
    try:
        folder = private_folder(programs.programs_folder())
    except UserError as error:
        return dict.fromkeys(missing, str(error))
    with locked(folder):
        return _fetch(folder, [name for name in missing if programs.find(name) is None], say)


def _fetch(folder: Path, names: Sequence[str], say: Say) -> dict[str, str]:
    failures: dict[str, str] = {}
    # mkdtemp gives it mode 700: nobody else can put a file in the place of a downloaded one before it is unpacked.
    temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        downloader = _downloader(temporary / "apt", say)
        failed: dict[str, str] = {}
        for name in names:
            if programs.find(name) is not None:
                continue
            source = programs.SOURCES[name]
            if source.package not in failed:
                try:
                    _fetch_package(source, temporary, folder, downloader, say)
                except ProcessError as error:
                    failed[source.package] = str(error)
            if source.package in failed:
                failures[name] = failed[source.package]
            elif programs.find(name) is None:
                failures[name] = f"the package {source.package} has no {source.executables[0]}"
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return failures


def _downloader(folder: Path, say: Say) -> debian.PackageDownloader | str:
    """The downloader, its lists up to date, or why there is none."""
    if not debian.is_available():
        return "this system has no apt"
    say("updating the package lists of apt in a folder of its own")
    try:
        downloader = debian.PackageDownloader(folder)
        downloader.update_lists()
    except ProcessError as error:
        return str(error)
    return downloader


def _fetch_package(
    source: programs.Source, temporary: Path, folder: Path, downloader: debian.PackageDownloader | str, say: Say
) -> None:
    """Raises ProcessError with the reasons of both ways."""
    unpacked = temporary / source.package
    reason = downloader if isinstance(downloader, str) else None
    if not isinstance(downloader, str):
        say(f"downloading the package {source.package}")
        try:
            (package,) = downloader.download([source.package])
            debian.unpack(package, unpacked)
            if pages := debian.page_packages(package):
                for file in downloader.download(pages):
                    debian.unpack(file, unpacked)
        except ProcessError as error:
            shutil.rmtree(unpacked, ignore_errors=True)
            reason = str(error)
    if reason is not None:
        if source.project is None:
            raise ProcessError(reason)
        say(f"downloading the release of {source.project}")
        try:
            releases.fetch_release(source.project, temporary, unpacked)
        except ProcessError as error:
            raise ProcessError(f"{reason}; {error}") from error
    target = folder / source.package
    shutil.rmtree(target, ignore_errors=True)
    unpacked.rename(target)
