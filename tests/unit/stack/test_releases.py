"""Release archives: the one that the table means is unpacked, every other is thrown away."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from joulebench.errors import ProcessError
from joulebench.stack.releases import RELEASES, Release, fetch_release
from tests.unit.stack.archives import served, tar_archive

TOP = "prometheus-9.9.9.linux-amd64"
PATH = f"/prometheus/releases/download/v9.9.9/{TOP}.tar.gz"
ARCHIVE = tar_archive(
    {
        f"{TOP}/prometheus": b"#!/bin/sh\necho prometheus\n",
        f"{TOP}/promtool": b"#!/bin/sh\necho promtool\n",
        f"{TOP}/LICENSE": b"text",
        "../../outside": b"a path that leaves the folder",
    }
)


def table(archive: bytes) -> dict[str, Release]:
    return {"prometheus": Release("9.9.9", ("prometheus", "promtool"), {"linux-amd64": hashlib.sha256(archive).hexdigest()})}


def fetch(tmp_path: Path, url: str, releases: dict[str, Release], on_platform: str = "linux-amd64") -> Path:
    folder, target = tmp_path / "downloads", tmp_path / "target"
    folder.mkdir()
    fetch_release("prometheus", folder, target, base_url=url, on_platform=on_platform, releases=releases)
    return target


def test_the_programs_of_a_good_archive_can_be_started_and_nothing_else_of_it_is_written(tmp_path: Path) -> None:
    with served({PATH: ARCHIVE}) as server:
        target = fetch(tmp_path, server.url, table(ARCHIVE))
    programs = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert programs == ["target/usr/bin/prometheus", "target/usr/bin/promtool"]
    assert all((target / "usr/bin" / name).stat().st_mode & 0o777 == 0o755 for name in ("prometheus", "promtool"))


def test_a_changed_archive_is_thrown_away(tmp_path: Path) -> None:
    changed = tar_archive({f"{TOP}/prometheus": b"#!/bin/sh\necho something else\n", f"{TOP}/promtool": b""})
    with served({PATH: changed}) as server, pytest.raises(ProcessError, match=r"has the SHA-256 [0-9a-f]{64} where [0-9a-f]{64}"):
        fetch(tmp_path, server.url, table(ARCHIVE))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_archive_is_reported_with_its_address_and_status(tmp_path: Path) -> None:
    with served({}) as server, pytest.raises(ProcessError, match=rf"{server.url}{PATH}: HTTP status 404"):
        fetch(tmp_path, server.url, table(ARCHIVE))


def test_a_server_that_cannot_be_reached_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="Connection refused"):
        fetch(tmp_path, "http://127.0.0.1:1", table(ARCHIVE))


def test_a_platform_without_a_known_checksum_downloads_nothing(tmp_path: Path) -> None:
    with served({PATH: ARCHIVE}) as server:
        with pytest.raises(ProcessError, match="no release of prometheus is known for plan9-mips"):
            fetch(tmp_path, server.url, table(ARCHIVE), on_platform="plan9-mips")
        assert server.requests == []


def test_an_archive_without_the_program_is_an_error_and_no_crash(tmp_path: Path) -> None:
    empty = tar_archive({f"{TOP}/LICENSE": b"text"})
    with served({PATH: empty}) as server, pytest.raises(ProcessError, match="cannot be unpacked"):
        fetch(tmp_path, server.url, table(empty))


def test_the_table_has_both_linux_platforms_for_every_project_and_full_checksums() -> None:
    assert set(RELEASES) == {"prometheus", "pushgateway", "alertmanager"}
    for release in RELEASES.values():
        assert set(release.sha256) == {"linux-amd64", "linux-arm64"}
        assert all(len(digest) == 64 and int(digest, 16) for digest in release.sha256.values())
    digests = [digest for release in RELEASES.values() for digest in release.sha256.values()]
    assert len(set(digests)) == len(digests)
