"""The scripts under the names that the client's users have written down, with their arguments, started by the system's Python."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.clock import wait_until
from tests.contract.sources import ROOT

PYTHON_SCRIPTS = ("clone_environment.py", "monitor_gpu.py", "collect_metrics.py", "json_to_csv.py", "export_results.py")


def python_without_joulebench() -> str:
    """The interpreter that this environment was made from."""
    found = shutil.which("python3", path=str(Path(sys.base_prefix) / "bin"))
    if found is None or Path(sys.prefix) == Path(sys.base_prefix):
        pytest.skip("these tests run in no virtual environment, so there is no other Python")
    return found


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with its environment."""
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in (*PYTHON_SCRIPTS, "run_tasks_range.sh"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


def test_the_monitor_writes_rows_until_it_is_killed(clone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    command = [python_without_joulebench(), "scripts/monitor_gpu.py", str(out), "0.25"]
    with subprocess.Popen(command, cwd=clone, stderr=subprocess.PIPE) as process:
        assert wait_until(lambda: out.exists() and out.read_text().count("\n") > 3, 30.0)
        process.terminate()
        assert process.wait(20) == 0
    header, *rows = list(csv.reader(out.read_text().splitlines()))
    assert header == ["timestamp", "gpu_util_pct", "vram_mb", "temp_c", "power_w", "container_cpu_pct", "container_mem_mb"]
    assert len(rows) >= 3


def test_metrics_are_collected_with_the_arguments_that_users_know(clone: Path, tmp_path: Path) -> None:
    command = [python_without_joulebench(), "scripts/collect_metrics.py", "--task-id", "vscode/task01_x", "--log-dir", "logs"]
    command += ["--summary", str(tmp_path / "s.csv"), "--metrics", str(tmp_path / "m.csv")]
    command += ["--fallback-status", "success", "--fallback-reason", ""]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "s.csv").read_text().splitlines())
    assert (row["task_id"], row["status"]) == ("vscode/task01_x", "missing")


def test_without_an_environment_a_script_says_how_to_get_one(clone: Path) -> None:
    (clone / ".venv").unlink()
    command = [python_without_joulebench(), "scripts/monitor_gpu.py", "out.csv"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"make -C {clone} setup" in done.stderr
    assert "Traceback" not in done.stderr


def fake_joulebench(directory: Path) -> str:
    program = directory / "fake-joulebench"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["files"], ["range", "files"]),
        (["files", "1", "2"], ["range", "files", "1", "2"]),
        (["files", "1", "2", "/logs"], ["range", "files", "1", "2", "--runs-dir", "/logs"]),
        (["files", "1", "2", "/logs", "--tag", "t"], ["range", "files", "1", "2", "--runs-dir", "/logs", "--tag", "t"]),
        (["files", "1", "2", "--tag", "t"], ["range", "files", "1", "2", "--tag", "t"]),
    ],
)
def test_a_range_takes_the_log_root_as_its_fourth_argument(
    arguments: list[str], passed: list[str], clone: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "JOULEBENCH": fake_joulebench(tmp_path)}
    done = subprocess.run(
        ["scripts/run_tasks_range.sh", *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == passed


def test_a_suite_of_the_client_is_run_by_the_clients_own_script(clone: Path, tmp_path: Path) -> None:
    client = tmp_path / "MCPWorld"
    (client / "PC-Canary/tests/tasks/vscode").mkdir(parents=True)
    (client / "scripts").mkdir()
    (client / "scripts/run_tasks_range.sh").write_text("#!/bin/sh\n")
    environment = {**os.environ, "JOULEBENCH": fake_joulebench(tmp_path)}
    script = str(clone / "scripts/run_tasks_range.sh")
    done = subprocess.run(
        [script, "vscode", "1", "2", "/logs"], cwd=client, env=environment, capture_output=True, text=True, check=True
    )
    own = f"{client}/scripts/run_tasks_range.sh"
    assert done.stdout.splitlines() == ["run", "--suite", "vscode", "--", "bash", own, "vscode", "1", "2", "/logs"]
