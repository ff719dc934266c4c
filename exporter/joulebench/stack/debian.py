"""Debian's and Ubuntu's packages without root: apt downloads and verifies them, and they are unpacked, never installed.

apt gets state, lists and cache folders of its own in a folder that only this user can write to. It reads the system's sources,
keys and proxy settings, and verifies the signature of the lists and the checksum of each package as always.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from joulebench.errors import ProcessError

APT_SECONDS = 300.0
"""For one apt command; a mirror that does not answer ends much earlier, by the timeouts in the configuration."""
SYSTEM_DATA = b"/usr/share/prometheus/"
RELATIVE_DATA = b"usr//share/prometheus/"
"""Debian's programs open templates and pages by the first of these paths, which only an installed package has. Both have the
same length, so an unpacked program can be changed to look below its working directory instead."""

PAGE_PREFIXES = ("libjs-", "fonts-")
LARGE_PAGE_PACKAGES = ("libjs-moment-timezone",)
"""Left out: 214 MB unpacked, for the time zones of one date picker."""


def is_available() -> bool:
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


class PackageDownloader:
    """Downloads packages into ``folder``, which must belong to this user alone and is deleted by the caller."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        self._configuration = folder / "apt.conf"
        # Given with -c it is read after the system's own files. The hooks clean up after an installation: there is none.
        self._configuration.write_text(
            f'Dir::State "{folder}/state/";\n'
            f'Dir::Cache "{folder}/cache/";\n'
            # apt as root would otherwise download as another user, who then had to be able to write here.
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "1";\n'
            'Acquire::http::Timeout "20";\n'
            'Acquire::https::Timeout "20";\n'
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n",
            encoding="utf-8",
        )

    def update_lists(self) -> None:
        """Raises ProcessError."""
        self._apt_get("update")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Return the verified package files. Raises ProcessError."""
        target = Path(tempfile.mkdtemp(prefix="packages-", dir=self._folder))
        self._apt_get("download", *packages, directory=target)
        files = sorted(target.glob("*.deb"))
        if len(files) != len(packages):
            raise ProcessError(f"apt-get download {' '.join(packages)} left {len(files)} files")
        return files

    def _apt_get(self, *arguments: str, directory: Path | None = None) -> None:
        command = ["apt-get", "-q", "-c", str(self._configuration), *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        _run(command, environment, directory or self._folder)


def page_packages(package: Path) -> list[str]:
    """Return the packages of scripts and fonts that the web pages of a program need, of what its package depends on."""
    depends = _run(["dpkg-deb", "-f", str(package), "Depends"], dict(os.environ), package.parent)
    names = re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]+)", depends)
    return [name for name in names if name.startswith(PAGE_PREFIXES) and name not in LARGE_PAGE_PACKAGES]


def unpack(package: Path, target: Path) -> None:
    """Unpack a package file below ``target`` and let its programs look for their data there. Raises ProcessError."""
    _run(["dpkg-deb", "-x", str(package), str(target)], dict(os.environ), target.parent)
    for program in (target / "usr/bin").glob("*"):
        if program.is_file() and not program.is_symlink():
            content = program.read_bytes()
            if SYSTEM_DATA in content:
                program.write_bytes(content.replace(SYSTEM_DATA, RELATIVE_DATA))


def _run(command: list[str], environment: dict[str, str], directory: Path) -> str:
    """Return what the command printed."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=APT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"{command[0]} did not end within {APT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        output = (done.stderr + done.stdout).decode("utf-8", "replace")
        errors = [line.strip() for line in output.splitlines() if line.startswith(("E:", "dpkg-deb: error"))]
        raise ProcessError(" ".join(errors) or f"{command[0]} ended with exit status {done.returncode}")
    return done.stdout.decode("utf-8", "replace")
