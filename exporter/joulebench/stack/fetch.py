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


def fetch_missing(names: Sequence[str], say: Say, releases_url: str = releases.BASE_URL) -> dict[str, str]:
    """Download what ``programs.find`` does not give of ``names``. Return why, by name, for each that could not be had.

    ``say`` gets a line before each step that takes a while. ``releases_url``: where the release archives are.
    """
    missing = [name for name in names if programs.find(name) is None]
    if not missing:
        return {}
    try:
        folder = private_folder(programs.programs_folder())
    except UserError as error:
        return dict.fromkeys(missing, str(error))
    with locked(folder):
        return _fetch(folder, [name for name in missing if programs.find(name) is None], say, releases_url)


def _fetch(folder: Path, names: Sequence[str], say: Say, releases_url: str) -> dict[str, str]:
    failures: dict[str, str] = {}
    # mkdtemp gives it mode 700: nobody else can put a file in the place of a downloaded one before it is unpacked.
    temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        downloads = _Downloads(folder, temporary, say, releases_url)
        for name in names:
            reason = downloads.reason(programs.SOURCES[name])
            if reason is None and programs.find(name) is None:
                reason = f"the package {programs.SOURCES[name].package} has no {programs.SOURCES[name].executables[0]}"
            if reason is not None:
                failures[name] = reason
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return failures


class _Downloads:
    """Downloads each package once, into ``temporary``, and moves what was unpacked to ``folder``."""

    def __init__(self, folder: Path, temporary: Path, say: Say, releases_url: str) -> None:
        self._folder = folder
        self._temporary = temporary
        self._say = say
        self._releases_url = releases_url
        self._reasons: dict[str, str | None] = {}
        self._apt = self._updated_apt()

    def reason(self, source: programs.Source) -> str | None:
        """Return why the package could not be had, by apt and as a release; None where it is there."""
        if source.package not in self._reasons:
            unpacked = self._temporary / source.package
            reason = self._by_apt(source, unpacked)
            if reason is not None and source.project is not None:
                shutil.rmtree(unpacked, ignore_errors=True)
                failed = self._by_release(source.project, unpacked)
                reason = None if failed is None else f"{reason}; {failed}"
            if reason is None:
                target = self._folder / source.package
                shutil.rmtree(target, ignore_errors=True)
                unpacked.rename(target)
            self._reasons[source.package] = reason
        return self._reasons[source.package]

    def _updated_apt(self) -> debian.PackageDownloader | str:
        """The downloader, its lists up to date, or why there is none."""
        if not debian.is_available():
            return "this system has no apt"
        self._say("updating the package lists of apt in a folder of its own")
        try:
            downloader = debian.PackageDownloader(self._temporary / "apt")
            downloader.update_lists()
        except ProcessError as error:
            return str(error)
        return downloader

    def _by_apt(self, source: programs.Source, unpacked: Path) -> str | None:
        if isinstance(self._apt, str):
            return self._apt
        self._say(f"downloading the package {source.package}")
        try:
            (package,) = self._apt.download([source.package])
            debian.unpack(package, unpacked)
            if pages := debian.page_packages(package):
                for file in self._apt.download(pages):
                    debian.unpack(file, unpacked)
        except ProcessError as error:
            return str(error)
        return None

    def _by_release(self, project: str, unpacked: Path) -> str | None:
        self._say(f"downloading the release of {project}")
        try:
            releases.fetch_release(project, self._temporary, unpacked, base_url=self._releases_url)
        except ProcessError as error:
            return str(error)
        return None
