"""``joulebench export`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.cli import main
from joulebench.cli.export import summary
from tests.unit.results import scenario
from tests.unit.results.scenario import RUN

ROOT = Path(__file__).parents[3]


def test_a_run_with_its_journal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = scenario.write_journals(tmp_path)
    code = main(["export", "--run-id", RUN, "--runs-dir", str(tmp_path), "--prometheus-url", "none"])
    told = capsys.readouterr().out
    assert code == 0
    for expected in (
        "Task plain",
        "success",
        "unfinished",
        "prometheus_not_asked",
        "no_end",
        "1 damaged",
        f"{directory}/results.csv (9 tasks)",
    ):
        assert expected in told
    assert "SIMULATED" not in told


def test_simulated_energy_is_said_out_loud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = {"gpu": "0", "uuid": "u", "joules": 5.0, "low": 4.0, "high": 6.0, "method": "counter", "quality": "ok", "reasons": []}
    energy = {
        "event_type": "TASK_ENERGY",
        "timestamp": 1.0,
        "task_id": "plain",
        "worker": "w1",
        "source": "simulated",
        "gpus": [gpu],
    }
    scenario.write_journals(tmp_path, scenario.TASKS[:1], [energy])
    assert main(["export", "--run-id", RUN, "--runs-dir", str(tmp_path), "--prometheus-url", "none"]) == 0
    assert "energy is SIMULATED: no GPU was measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run-id", "nope"], "no run 'nope'; known in"),
        (["--run-id", "../x"], "not a run id"),
        (["--run-id", RUN, "--wait", "-1"], "--wait: -1 is not a number of seconds of at least 0"),
        (["--run-id", RUN, "--wait", "soon"], "--wait: soon is not a number of seconds"),
        (["--run-id", RUN, "--prometheus-url", "localhost:9090"], "--prometheus-url"),
    ],
)
def test_bad_input_is_told_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    scenario.write_journals(tmp_path)
    defaults = [] if "--prometheus-url" in flags else ["--prometheus-url", "none"]
    assert main(["export", "--runs-dir", str(tmp_path), *defaults, *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_script_is_the_same_command(tmp_path: Path) -> None:
    scenario.write_journals(tmp_path, scenario.TASKS[:1])
    script = [sys.executable, str(ROOT / "scripts" / "export_results.py")]
    flags = ["--run-id", RUN, "--runs-dir", str(tmp_path), "--prometheus-url", "none"]
    done = subprocess.run([*script, *flags], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Task plain" in done.stdout


def test_names_with_markup_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = scenario.Planned("[bold]x[/nope]", 1.0, 2.0)
    scenario.write_journals(tmp_path, [task])
    assert main(["export", "--run-id", RUN, "--runs-dir", str(tmp_path), "--prometheus-url", "none"]) == 0
    assert "Task [bold]x[/nope]" in capsys.readouterr().out
    assert summary([], RUN).row_count == 0
