"""The projects' own release archives, for systems without apt: a pinned version and checksum for each platform.

An archive whose SHA-256 is not the one in the table is thrown away unread. The checksums are those of the ``sha256sums.txt`` of
each release.
"""

from __future__ import annotations

import hashlib
import platform
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from joulebench.errors import ProcessError

BASE_URL = "https://github.com/prometheus"
TIMEOUT_SECONDS = 30.0
LARGEST_BYTES = 500_000_000
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Release:
    """``sha256``: by platform, as the names of the archives have it."""

    version: str
    programs: tuple[str, ...]
    sha256: Mapping[str, str]


RELEASES: dict[str, Release] = {
    "prometheus": Release(
        "2.54.1",
        ("prometheus", "promtool"),
        {
            "linux-amd64": "31715ef65e8a898d0f97c8c08c03b6b9afe485ac84e1698bcfec90fc6e62924f",
            "linux-arm64": "3d9946ca730f2679bbd63e9d40e559a0ba227a638d237e723af1a99bd7098263",
        },
    ),
    "pushgateway": Release(
        "1.10.0",
        ("pushgateway",),
        {
            "linux-amd64": "e2310c978da19362f2c7f91668550fdbbbb7421f7dfc8eb81a927e017f7b8d17",
            "linux-arm64": "eca6227623edbd8c7a30c2d7974f1516c51945e32508e0df1b9f301f74b88f68",
        },
    ),
    "alertmanager": Release(
        "0.27.0",
        ("alertmanager",),
        {
            "linux-amd64": "23c3f5a3c73de91dbaec419f3c492bef636deb02680808e5d842e6553aa16074",
            "linux-arm64": "a754304b682cec61f4bd5cfc029b451a30134554b3a2f21a9c487e12814ff8f3",
        },
    ),
}
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def this_platform() -> str:
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{MACHINES.get(machine, machine)}"


def fetch_release(
    project: str,
    folder: Path,
    target: Path,
    *,
    base_url: str = BASE_URL,
    on_platform: str | None = None,
    releases: Mapping[str, Release] = RELEASES,
) -> None:
    """Download the archive of ``project`` into ``folder``, verify it and put its programs into ``target/usr/bin``.

    ``folder`` must belong to this user alone. Raises ProcessError where there is no release for the platform, the archive cannot
    be had, or it is not the archive that the table means.
    """
    release, on_platform = releases[project], on_platform or this_platform()
    expected = release.sha256.get(on_platform)
    if expected is None:
        raise ProcessError(f"no release of {project} is known for {on_platform}")
    name = f"{project}-{release.version}.{on_platform}"
    url = f"{base_url}/{project}/releases/download/v{release.version}/{name}.tar.gz"
    archive = folder / f"{name}.tar.gz"
    digest = _download(url, archive)
    if digest != expected:
        archive.unlink()
        raise ProcessError(f"{url} has the SHA-256 {digest} where {expected} was expected; it was thrown away")
    _unpack(archive, name, release.programs, target / "usr/bin")
    archive.unlink()


def _download(url: str, target: Path) -> str:
    """Return the SHA-256 of what was written to ``target``."""
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, target.open("xb") as file:
            while chunk := response.read(CHUNK_BYTES):
                size += len(chunk)
                if size > LARGEST_BYTES:
                    raise ProcessError(f"{url} is larger than {LARGEST_BYTES} bytes")
                digest.update(chunk)
                file.write(chunk)
    except urllib.error.HTTPError as error:
        error.close()
        raise ProcessError(f"{url}: HTTP status {error.code}") from error
    except (OSError, urllib.error.URLError) as error:
        raise ProcessError(f"{url}: {getattr(error, 'reason', error)}") from error
    return digest.hexdigest()


def _unpack(archive: Path, top: str, programs: tuple[str, ...], target: Path) -> None:
    """Write the named programs and nothing else; no path in the archive is followed."""
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for program in programs:
                member = tar.extractfile(f"{top}/{program}")
                if member is None:
                    raise ProcessError(f"{archive.name}: {program} is not a file")
                with member, (target / program).open("xb") as file:
                    while chunk := member.read(CHUNK_BYTES):
                        file.write(chunk)
                (target / program).chmod(0o755)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise ProcessError(f"{archive.name} cannot be unpacked ({error})") from error
