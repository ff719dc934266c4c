"""The test suite ends by itself, whatever a test leaves behind, and a program that does not start fails its own tests alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.sources import ROOT
from tests.needs import need_program

LIMIT_SECONDS = 60.0

LEAVES_A_THREAD = """
import threading

def serve_for_ever() -> None:
    threading.Event().wait()

def test_leaves_a_thread() -> None:
    threading.Thread(target=serve_for_ever, name="forgotten", daemon=DAEMON).start()
"""


def run_pytest(*arguments: str, directory: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; raises TimeoutExpired where it does not end within a minute."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(("daemon", "workers"), [(True, "0"), (False, "2")])
def test_a_thread_that_a_test_leaves_is_named_and_fails_the_run_which_ends(tmp_path: Path, daemon: bool, workers: str) -> None:
    (tmp_path / "test_it.py").write_text(LEAVES_A_THREAD.replace("DAEMON", str(daemon)), encoding="utf-8")
    done = run_pytest("-p", "tests.stray_threads", "-p", "no:randomly", "-n", workers, "test_it.py", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    kind = "daemon thread" if daemon else "thread"
    assert f"STRAY {kind} 'forgotten' running test_it.serve_for_ever" in done.stdout


@pytest.mark.e2e
def test_a_program_that_does_not_start_fails_the_tests_that_need_it_with_its_message(tmp_path: Path) -> None:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    broken = tmp_path / "alertmanager"
    broken.write_text("#!/bin/sh\necho starting\necho 'no such template: default.tmpl' >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    scene, other = "tests/e2e/test_overheating.py", "tests/unit/push/test_ids.py"
    done = run_pytest(scene, other, JOULEBENCH_PROGRAMS=str(tmp_path))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "alertmanager ended with exit status 3; the end of" in done.stdout
    assert "starting | no such template: default.tmpl" in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert failed
    assert all(scene in line for line in failed), failed
    assert " passed" in done.stdout, "the tests that need no program still pass"
    assert "STRAY" not in done.stdout
