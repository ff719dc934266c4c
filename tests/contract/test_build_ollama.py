"""``scripts/build_ollama.sh`` around the build itself: which Go it takes, what it says where it cannot, and that it builds once.

A scripted ``go`` stands in for the real one, whose ten minutes are the tier of ``make test-ollama``.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/build_ollama.sh"
TOOLS = ("bash", "cat", "chmod", "dirname", "grep", "head", "mkdir", "rm", "sort", "tail", "touch", "uname", "cc", "c++")
HEADERS = ("nlohmann/json.hpp", "stb/stb_image.h", "miniaudio/miniaudio.h")


@dataclass
class Tree:
    root: Path

    def go(self, version: str, install: str = 'touch "$GOBIN/ollama"; chmod +x "$GOBIN/ollama"') -> None:
        stub = self.root / "bin/go"
        lines = ["#!/usr/bin/env bash", f'[ "$1" = env ] && {{ echo "{version}"; exit 0; }}']
        lines += [f'echo "$@ | $CGO_CFLAGS" >>"{self.root}/asked"', install]
        stub.write_text("\n".join(lines) + "\n", encoding="utf-8")
        stub.chmod(0o755)

    def build(self) -> subprocess.CompletedProcess[str]:
        argv = [str(self.root / "bin/bash"), str(self.root / "scripts/build_ollama.sh")]
        return subprocess.run(argv, env={"PATH": str(self.root / "bin")}, check=False, capture_output=True, text=True, timeout=60)

    @property
    def why_not(self) -> str | None:
        path = self.root / ".build/ollama/why_not"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    @property
    def asked(self) -> list[str]:
        path = self.root / "asked"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """The script alone, with the headers that it would fetch, and on PATH what it needs but Go."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in (*TOOLS, "env"):
        found = shutil.which(tool)
        assert found is not None or tool in ("cc", "c++"), tool
        (tmp_path / "bin" / tool).symlink_to(found or "/bin/true")
    for header in HEADERS:
        place = tmp_path / ".build/ollama/include" / header
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return Tree(tmp_path)


def test_without_go_it_says_what_is_missing(tree: Tree) -> None:
    done = tree.build()
    assert done.returncode == 3
    assert "Go is missing; Ollama needs Go 1.24 or newer on PATH" in done.stderr
    assert tree.why_not == "Go is missing; Ollama needs Go 1.24 or newer on PATH"


def test_an_old_go_is_refused(tree: Tree) -> None:
    tree.go("go1.9.7")
    done = tree.build()
    assert done.returncode == 3
    assert "Go 1.9.7 is too old; Ollama needs Go 1.24 or newer" in done.stderr
    assert tree.asked == []


def test_it_builds_the_pinned_version_once_and_for_this_cpu(tree: Tree) -> None:
    tree.go("go1.26.1")
    for _ in range(2):
        done = tree.build()
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ready: .build/ollama/ollama 0.17.4")
    (asked,) = tree.asked
    assert "version.Version=0.17.4" in asked
    assert "github.com/ollama/ollama@v0.17.4" in asked
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert ("-mavx2" in asked) == ({"avx2", "fma", "f16c", "bmi2"} <= set(cpu))


def test_a_build_for_another_cpu_or_version_is_made_anew(tree: Tree) -> None:
    tree.go("go1.24")
    assert tree.build().returncode == 0
    (tree.root / ".build/ollama/stamp").write_text("ollama 0.17.3 x86_64 -O3\n", encoding="utf-8")
    assert tree.build().returncode == 0
    assert len(tree.asked) == 2


def test_modules_that_cannot_be_fetched_are_told_apart_from_a_build_that_fails(tree: Tree) -> None:
    tree.go("go1.26.1", "echo 'go: example.org/m@v1: Get \"https://example.org/m\": dial tcp: no such host' >&2; exit 1")
    done = tree.build()
    assert done.returncode == 3
    assert "no such host" in done.stderr
    assert tree.why_not == "Go could not fetch Ollama's modules; see .build/ollama/build.log"
    tree.go("go1.26.1")
    assert tree.build().returncode == 0
    assert tree.why_not is None


def test_a_build_that_fails_shows_why_and_is_not_taken_for_a_missing_go(tree: Tree) -> None:
    tree.go("go1.26.1", "echo 'cannot find header' >&2; exit 3")
    done = tree.build()
    assert done.returncode == 1
    assert "cannot find header" in done.stderr
    assert ".build/ollama/build.log" in done.stderr
    assert not (tree.root / ".build/ollama/stamp").exists()
    assert tree.why_not is None
