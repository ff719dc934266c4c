"""Programs from Debian's packages without root: verified, unpacked where nobody else can write, given what they look for.

apt and dpkg-deb are real; the repository is a local server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from joulebench.cache import private_folder
from joulebench.errors import UserError
from joulebench.stack import fetch, programs
from tests.unit.stack.archives import apt_repository, debian_package, served

NOBODY = 65534
NO_RELEASES = "http://127.0.0.1:1"
"""Nothing outside of this machine is asked."""
PROGRAM = b"#!/bin/sh\ncat /usr/share/prometheus/alertmanager/default.tmpl\n"
TEMPLATE = b"the template of the package\n"

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="apt-get or dpkg-deb is not installed"
)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache folder below one that every user may enter, and a PATH without any of the programs."""
    home = Path(tempfile.mkdtemp(prefix="joulebench-test-"))
    home.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("JOULEBENCH_PROGRAMS", raising=False)
    names = {name for source in programs.SOURCES.values() for name in source.executables}
    path = tmp_path / "path"
    path.mkdir()
    for folder in ("/usr/bin", "/usr/sbin"):
        for tool in Path(folder).iterdir():
            if tool.name not in names and not (path / tool.name).is_symlink():
                (path / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(path))
    yield home
    shutil.rmtree(home)


def use_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, option: str = "[trusted=yes] ") -> None:
    """apt reads this repository and no other one."""
    sources, configuration = tmp_path / "sources.list", tmp_path / "apt.conf"
    sources.write_text(f"deb {option}{url}/ ./\n", encoding="utf-8")
    configuration.write_text(f'Dir::Etc::SourceList "{sources}";\nDir::Etc::SourceParts "-";\n', encoding="utf-8")
    monkeypatch.setenv("APT_CONFIG", str(configuration))


def repository(tmp_path: Path) -> dict[str, bytes]:
    files = {"usr/bin/prometheus-alertmanager": PROGRAM, "usr/share/prometheus/alertmanager/default.tmpl": TEMPLATE}
    depends = {"prometheus-alertmanager": "adduser, libjs-pages (>= 1), libc6"}
    packages = {
        "prometheus-alertmanager": debian_package(tmp_path, "prometheus-alertmanager", files, *depends.values()),
        "libjs-pages": debian_package(tmp_path, "libjs-pages", {"usr/share/javascript/pages/pages.js": b"//"}),
    }
    return apt_repository(packages, depends)


def test_a_package_is_unpacked_and_its_program_finds_what_it_looks_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with served(repository(tmp_path)) as server:
        use_repository(monkeypatch, tmp_path, server.url)
        assert fetch_missing(("alertmanager",), said.append) == {}
        assert len(said) == 2, "each step that takes a while is announced"
        requests = len(server.requests)
        assert fetch_missing(("alertmanager",), said.append) == {}
        assert len(server.requests) == requests, "nothing is downloaded twice"
    program = programs.require("alertmanager")
    folder = programs.working_directory(program)
    assert folder == (cache / "joulebench/programs/prometheus-alertmanager").resolve()
    assert not Path("/usr/share/prometheus/alertmanager/default.tmpl").exists() or shutil.which("prometheus-alertmanager") is None
    done = subprocess.run([program], cwd=folder, capture_output=True, check=True)
    assert done.stdout == TEMPLATE
    assert (folder / "usr/share/javascript/pages/pages.js").is_file(), "the scripts of its pages come with it"
    assert [path.name for path in (cache / "joulebench/programs").iterdir() if path.name.startswith(".fetch")] == []


def test_what_is_in_neither_place_is_reported_with_both_reasons(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(repository(tmp_path)) as server:
        use_repository(monkeypatch, tmp_path, server.url)
        failures = fetch_missing(("alertmanager", "pushgateway", "prometheus", "promtool"))
    assert set(failures) == {"pushgateway", "prometheus", "promtool"}
    assert "prometheus-pushgateway" in failures["pushgateway"]
    assert "/pushgateway/releases/download/" in failures["pushgateway"]
    assert failures["prometheus"] == failures["promtool"]


def test_a_repository_without_a_signature_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(repository(tmp_path)) as server:
        use_repository(monkeypatch, tmp_path, server.url, option="")
        failures = fetch_missing(("alertmanager",))
        assert "/prometheus-alertmanager.deb" not in server.requests
    assert re.search(r"is not signed|does not have a Release file", failures["alertmanager"])
    assert programs.find("alertmanager") is None


def test_a_package_that_was_changed_on_its_way_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = repository(tmp_path)
    files["/prometheus-alertmanager.deb"] = evil_package(tmp_path)
    with served(files) as server:
        use_repository(monkeypatch, tmp_path, server.url)
        failures = fetch_missing(("alertmanager",))
    assert "prometheus-alertmanager.deb" in failures["alertmanager"]
    assert programs.find("alertmanager") is None


def fetch_missing(names: tuple[str, ...], say: fetch.Say = lambda _line: None) -> dict[str, str]:
    return fetch.fetch_missing(names, say, NO_RELEASES)


def evil_package(tmp_path: Path) -> bytes:
    folder = tmp_path / "evil"
    folder.mkdir()
    return debian_package(folder, "prometheus-alertmanager", {"usr/bin/prometheus-alertmanager": b"#!/bin/sh\necho owned\n"})


SWAP = """
folder=$1 evil=$2
for file in $(find "$folder" -type f 2>/dev/null) "$3"; do
    cp "$evil" "$file" 2>/dev/null && echo "wrote $file"
    rm -f "$file" 2>/dev/null && [ ! -e "$file" ] && cp "$evil" "$file" 2>/dev/null && echo "replaced $file"
done
for part in "$folder" "$(dirname "$folder")"; do
    ls "$part" >/dev/null 2>&1 && [ "$part" = "$folder" ] && echo "read $part"
    mv "$part" "$part.away" 2>/dev/null && echo "moved $part"
    ln -s /tmp "$part/link" 2>/dev/null && echo "linked in $part"
done
true
"""
"""What another local user can try: write to, replace or read the files, and move the folders that hold them."""


def swap_as_nobody(folder: Path, evil: Path, file: Path) -> list[str]:
    """Return what the other user managed to do."""
    command = ["/bin/sh", "-c", SWAP, "swap", str(folder), str(evil), str(file)]
    done = subprocess.run(
        command,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_cannot_swap_a_package_while_it_is_downloaded_nor_the_program_afterwards(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = cache / "evil.deb"
    evil.write_bytes(evil_package(tmp_path))
    evil.chmod(0o644)
    open_folder = cache / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    (open_folder / "package.deb").write_bytes(b"genuine")
    assert any(line.startswith("replaced") for line in swap_as_nobody(open_folder, evil, open_folder / "package.deb")), (
        "the attack works where the folder is open to all"
    )

    packages = cache / "joulebench/programs"
    failures: dict[str, str] = {}
    with served(repository(tmp_path), held="/prometheus-alertmanager.deb") as server:
        use_repository(monkeypatch, tmp_path, server.url)
        fetching = Thread(target=lambda: failures.update(fetch_missing(("alertmanager",))), daemon=True)
        fetching.start()
        assert server.asked.wait(60), failures
        during = [line for folder in folders_in_use(packages) for line in swap_as_nobody(folder, evil, folder / "a.deb")]
        server.go.set()
        fetching.join(60)
        assert not fetching.is_alive()
    assert (during, failures) == ([], {})
    program = programs.require("alertmanager")
    after = swap_as_nobody(packages, evil, program)
    assert after == []
    assert program.read_bytes() == PROGRAM.replace(b"/usr/share", b"usr//share")


def folders_in_use(packages: Path) -> list[Path]:
    """The folders of the download that is under way, as only root sees them."""
    folders = [path for path in packages.rglob("*") if path.is_dir()]
    assert any("packages-" in path.name for path in folders), folders
    return [packages, *folders]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_a_cache_folder_that_another_user_made_first_is_not_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.chmod(0o1777)
    theirs = cache / "joulebench"
    (theirs / "programs/prometheus-alertmanager/usr/bin").mkdir(parents=True)
    program = theirs / "programs/prometheus-alertmanager/usr/bin/alertmanager"
    program.write_bytes(b"#!/bin/sh\necho owned\n")
    program.chmod(0o755)
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert programs.find("alertmanager") is None
    with served(repository(tmp_path)) as server:
        use_repository(monkeypatch, tmp_path, server.url)
        failures = fetch_missing(("alertmanager",))
        assert server.requests == []
    assert "belongs to another user" in failures["alertmanager"]


@pytest.mark.parametrize(("mode", "usable"), [(0o700, True), (0o755, True), (0o777, False), (0o1777, False)])
def test_a_folder_that_all_may_write_to_is_not_used(tmp_path: Path, mode: int, usable: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    if usable:
        assert private_folder(folder) == folder
    else:
        with pytest.raises(UserError, match="every user may write to"):
            private_folder(folder)


def test_a_folder_below_an_open_one_is_not_used_unless_that_has_the_sticky_bit(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(UserError, match="every user may write to"):
        private_folder(above / "programs")
    above.chmod(0o1777)
    assert private_folder(above / "programs").stat().st_mode & 0o777 == 0o700


def test_nothing_is_asked_of_a_server_where_all_programs_are_there(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "alertmanager").write_text("#!/bin/sh\n", encoding="utf-8")
    (own / "alertmanager").chmod(0o755)
    monkeypatch.setenv("JOULEBENCH_PROGRAMS", str(own))
    with served({}) as server:
        use_repository(monkeypatch, tmp_path, server.url)
        assert fetch_missing(("alertmanager",)) == {}
        assert server.requests == []
    assert not (cache / "joulebench").exists()
