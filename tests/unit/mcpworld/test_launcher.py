"""``joulebench run`` around a client: its exit code and signals are the client's own, and a run that measured nothing says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import mcpworld_client

CLIENT = Path(mcpworld_client.__path__[0]) / "run_task.py"
NONE = ["--gateway-url=none", "--prometheus-url=none", "--exporter-url=none"]


def command(directory: Path, *client: str) -> list[str]:
    launcher = [sys.executable, "-m", "joulebench.cli", "run", "--run-id", "r", "--runs-dir", str(directory / "runs"), *NONE]
    return [*launcher, "--", *client]


def run(directory: Path, *client: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(directory, *client), capture_output=True, text=True, check=False, timeout=60)


def events(directory: Path, kind: str) -> list[dict[str, object]]:
    lines = [line for path in directory.glob("runs/r/journal-*.jsonl") for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["event_type"] == kind]


def test_a_client_that_records_events_is_measured(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, str(CLIENT), str(tmp_path / "logs"), "task01_a", "success")
    assert done.returncode == 0, done.stderr
    assert "no task was measured" not in done.stderr
    (start,) = events(tmp_path, "TASK_START")
    assert start["task_id"] == "vscode/task01_a"


@pytest.mark.parametrize(
    ("client", "code"),
    [
        (["true"], 1),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], -9),
        (["env", "-i", sys.executable, str(CLIENT), "LOGS", "task01_a", "success"], 1),
    ],
    ids=["no Python", "another failure", "killed", "an empty environment"],
)
def test_a_run_that_saw_no_event_says_so_and_fails(client: list[str], code: int, tmp_path: Path) -> None:
    done = run(tmp_path, *(str(tmp_path / "logs") if word == "LOGS" else word for word in client))
    assert done.returncode == code
    assert "no task was measured: no call of an openai, ollama or litellm client" in done.stderr
    assert "joulebench backfill" in done.stderr


def test_a_second_client_of_the_run_that_is_not_measured_is_noticed_too(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, str(CLIENT), str(tmp_path / "logs"), "task01_a", "success").returncode == 0
    assert run(tmp_path, "true").returncode == 1


@contextmanager
def waiting_client(tmp_path: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    code = f"{script}\nprint('ready', flush=True)\nsignal.pause()"
    client = command(tmp_path, sys.executable, "-c", code)
    with subprocess.Popen(client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_a_signal_is_passed_on_and_ends_the_launcher_as_it_ended_the_client(tmp_path: Path) -> None:
    with waiting_client(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def test_a_client_that_handles_a_signal_gets_it_once_and_keeps_its_exit_code(tmp_path: Path) -> None:
    script = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: (print('once', flush=True), sys.exit(7)))"
    with waiting_client(tmp_path, script) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 7
        assert process.stdout is not None
        assert process.stdout.read() == "once\n"


def test_a_program_that_cannot_be_started_is_bad_input(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    done = run(tmp_path, str(broken))
    assert done.returncode == 2
    assert "cannot be started" in done.stderr
    assert os.listdir(tmp_path) == ["broken"]


def test_the_hook_needs_only_what_runs_on_any_interpreter() -> None:
    """The client's Python may be of another version, for which our compiled packages do not load."""
    code = (
        "import sys, joulebench.mcpworld.hook; print(sorted({'numpy', 'msgspec', 'pandas', 'rich', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_device_is_no_directory_for_runs(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "joulebench.cli", "run", "--runs-dir", "/dev/null", *NONE, "--", "touch", str(tmp_path / "ran")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "/dev/null is no directory; give one" in done.stderr) == (2, True)
    assert not (tmp_path / "ran").exists()
