"""Joules by scope: what is inside another scope is never added to it, and a comparison names whose joules it has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.analysis.report.content import build_content
from joulebench.analysis.report.formats import report_csv, report_markdown
from joulebench.analysis.runs import choose_scopes, load_run
from joulebench.errors import UserError
from joulebench.schema.scopes import add_scopes
from tests.fakes.scripted_run import Scripted, write

SHARE = {"gpu": 1.0, "cpu": 0.5, "dram": 0.1, "wall": 2.5}


def meters(gpu_joules: float, *, without: Iterable[str] = (), simulated: Iterable[str] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, scope in (("rapl", "cpu"), ("ram", "dram"), ("plug", "wall"), ("second_plug", "wall"), ("dcgm", "gpu")):
        known = name not in without
        joules = SHARE[scope] * gpu_joules * (1.0 if name != "second_plug" else 1.5)
        found[name] = {
            "scope": scope,
            "joules": joules if known else None,
            "attributed_joules": joules if known else None,
            "low_joules": 0.9 * joules if known else None,
            "high_joules": 1.1 * joules if known else None,
            "quality": "ok" if known else "missing",
            "reasons": [] if known else ["no_samples"],
            "simulated": name in simulated,
            "overlap_fraction": 0.0,
        }
    return {"meters": found}


def tasks(model: str, factor: float, wall: float = 1.0) -> list[Scripted]:
    rows = []
    for number in range(8):
        joules = factor * (100.0 + number)
        extra = meters(joules, simulated=("plug",))
        extra["meters"]["plug"]["attributed_joules"] *= wall
        rows.append(Scripted(f"t{number}", number % 4 != 0, joules, model=model, extra=extra))
    return rows


def run(folder: Path, rows: Iterable[Scripted]) -> Path:
    return write(folder, rows)


def test_the_first_meter_that_knows_a_task_speaks_for_its_scope(tmp_path: Path) -> None:
    rows = [
        Scripted("all", extra=meters(100.0)),
        Scripted("no plug", extra=meters(100.0, without=("plug",))),
        Scripted("no wall", extra=meters(100.0, without=("plug", "second_plug"))),
    ]
    attempts = {attempt.task: attempt for attempt in load_run(run(tmp_path / "run", rows)).attempts}
    assert {scope: energy.joules for scope, energy in attempts["all"].scopes.items()} == {
        "gpu": 100.0,
        "cpu": 50.0,
        "dram": 10.0,
        "wall": 250.0,
    }
    # The GPU's own counter stands before a second reader of it.
    assert attempts["all"].scopes["gpu"].meter == "GPU"
    assert (attempts["no plug"].scopes["wall"].meter, attempts["no plug"].scopes["wall"].joules) == ("second_plug", 375.0)
    assert attempts["no wall"].scopes["wall"].joules is None


def test_scopes_beside_each_other_are_added_and_no_others(tmp_path: Path) -> None:
    (attempt,) = load_run(run(tmp_path / "run", [Scripted("a", extra=meters(100.0))])).attempts
    together = add_scopes(attempt.scopes, ("gpu", "cpu", "dram"))
    assert together is not None
    assert (together.joules, together.meter, together.quality) == (160.0, "GPU+rapl+ram", "ok")
    # 99 to 101, 45 to 55 and 9 to 11.
    assert together.low == pytest.approx(153.0)
    assert together.high == pytest.approx(167.0)
    with pytest.raises(ValueError, match="one is inside another"):
        add_scopes(attempt.scopes, ("gpu", "wall"))
    assert add_scopes(attempt.scopes, ("module",)) is None


def test_an_attempt_without_joules_of_the_scope_counts_for_success_only(tmp_path: Path) -> None:
    rows = [Scripted("a", extra=meters(100.0)), Scripted("b", extra=meters(100.0, without=("plug", "second_plug")))]
    chosen = {attempt.task: attempt for attempt in choose_scopes(load_run(run(tmp_path / "run", rows)), ("wall",)).attempts}
    assert (chosen["a"].joules, chosen["a"].exclusions) == (250.0, ())
    assert (chosen["b"].joules, chosen["b"].exclusions) == (None, ("no joules",))


def test_a_task_that_was_throttled_is_excluded_in_every_scope(tmp_path: Path) -> None:
    rows = [Scripted("a", quality="suspect", reasons=("throttled",), extra=meters(100.0))]
    (attempt,) = choose_scopes(load_run(run(tmp_path / "run", rows)), ("wall",)).attempts
    assert attempt.exclusions == ("throttled",)


def test_a_scope_that_no_meter_measured_is_refused_by_name(tmp_path: Path) -> None:
    loaded = load_run(run(tmp_path / "run", [Scripted("a", extra=meters(100.0))]))
    with pytest.raises(
        UserError, match=r"no task of run has joules of rack; it has gpu, cpu, dram, wall\. Export the run with --meters"
    ):
        choose_scopes(loaded, ("rack",))


def compare(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["compare", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def measures(out: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(out)["pairs"][0]["measures"]["joules_per_success"]
    return found


def test_compare_takes_the_joules_of_the_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Model b needs fewer joules of the GPU and more of the wall."""
    folder = run(tmp_path / "run", [*tasks("a", 1.0), *tasks("b", 0.8, wall=2.0)])
    successes = 6
    truth = sum(100.0 + number for number in range(8)) / successes
    code, out, _ = compare([str(folder), "--format", "json"], capsys)
    assert (code, measures(out)["base"]["value"]) == (0, pytest.approx(truth))
    assert measures(out)["quotient"]["value"] == pytest.approx(0.8)
    code, out, _ = compare([str(folder), "--scope", "wall", "--format", "json"], capsys)
    assert (code, measures(out)["base"]["value"]) == (0, pytest.approx(2.5 * truth))
    assert measures(out)["quotient"]["value"] == pytest.approx(1.6)
    assert json.loads(out)["scopes"] == ["wall"]
    code, out, _ = compare([str(folder), "--scope", "gpu+cpu", "--format", "json"], capsys)
    assert (code, measures(out)["base"]["value"]) == (0, pytest.approx(1.5 * truth))
    code, out, _ = compare([str(folder), "--scope", "wall"], capsys)
    assert out.startswith("Joules of wall, by plug.\n")
    assert "note: the joules are SIMULATED" in out
    code, out, err = compare([str(folder), "--scope", "gpu+wall"], capsys)
    assert (code, out) == (2, "")
    assert "gpu is inside wall, so their joules cannot be added" in err


def test_the_report_shows_each_scope_and_the_share_of_the_gpu(tmp_path: Path) -> None:
    loaded = load_run(run(tmp_path / "run", [*tasks("a", 1.0), Scripted("t9", extra={}, joules=50.0, model="a")]))
    content = build_content([loaded], None, 0.5, (), "now")
    rows = {row["scope"]: row for row in content["scopes"]}
    assert list(rows) == ["gpu", "cpu", "dram", "wall"]
    assert rows["wall"]["gpu_share"] == pytest.approx(0.4)
    # The GPU is no part of the CPU.
    assert rows["cpu"]["gpu_share"] is None
    assert (rows["wall"]["known"], rows["gpu"]["known"], rows["wall"]["attempts"]) == (8, 9, 9)
    assert rows["wall"]["joules_per_success"]["value"] == pytest.approx(2.5 * 828 / 6)
    assert (rows["wall"]["meters"], rows["wall"]["simulated"], rows["cpu"]["simulated"]) == (["plug"], True, False)
    text = report_markdown(content)
    assert "## Energy by scope" in text
    assert "wall (SIMULATED) | plug | 8 / 9" in text
    assert "scope,a,wall,gpu_share,0.4,," in report_csv(content)


def test_a_report_without_meters_has_no_scopes(tmp_path: Path) -> None:
    content = build_content([load_run(run(tmp_path / "run", [Scripted("a")]))], None, 0.5, (), "now")
    assert content["scopes"] == []
    assert "Energy by scope" not in report_markdown(content)
