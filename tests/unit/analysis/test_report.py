"""The content of a report is the truth of scripted runs, and every format tells the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli, metrics
from joulebench.analysis.report.content import build_content
from joulebench.analysis.report.formats import report_csv, report_json, report_markdown
from joulebench.analysis.report.page import render_page
from joulebench.analysis.report.timelines import add_samples, timeline_values, timeline_windows
from joulebench.analysis.runs import load_run
from joulebench.prices import load
from joulebench.results.fetch import GpuSamples, Samples
from joulebench.results.timeseries import TimeSeries
from tests.fakes.scripted_run import START, Scripted, write

CHEAP = [Scripted(f"t{n}", n % 4 != 0, 100.0 + n, model="cheap", confidence=0.5 + n / 100) for n in range(24)]
DEAR = [replace(one, model="dear", joules=3 * (one.joules or 0)) for one in CHEAP]
PRICES = "currency: EUR\nelectricity: {per_kwh: 0.3, as_of: 2026-11-01}\nhardware: {per_hour: 1, as_of: 2026-11-01}\n"
API = "api: [{model: small, prompt: 1, completion: 10, as_of: 2026-06-15}]\n"


def built(folder: Path, *attempts: Scripted, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    (folder / "prices.yml").write_text(PRICES + API)
    run = load_run(write(folder / "run", attempts, planned=len(attempts) + 2), timelines=True)
    return build_content([run], load(folder / "prices.yml"), 0.5, allow, "today")


def test_the_numbers_of_a_model_are_those_of_its_attempts(tmp_path: Path) -> None:
    cheap, dear = built(tmp_path, *CHEAP, *DEAR)["models"]
    joules = sum(100.0 + n for n in range(24))
    assert (cheap["label"], cheap["successes"], cheap["counted"], cheap["joules"]) == ("cheap", 18, 24, joules)
    assert cheap["measures"]["joules_per_success"]["value"] == pytest.approx(joules / 18)
    assert (cheap["joules_low"], cheap["joules_high"]) == (pytest.approx(0.99 * joules), pytest.approx(1.01 * joules))
    assert cheap["ttft_seconds"] == pytest.approx(0.9)
    assert cheap["decode_tokens_per_second"] == pytest.approx(50 / 8.1)
    assert cheap["seconds_share"] == pytest.approx({"prefill": 0.09, "decode": 0.81, "tool_wait": 0.1})
    assert cheap["least_confidence"] == 0.5
    assert (cheap["pareto"], dear["pareto"]) == (True, False)


def test_phases_that_are_not_exact_have_a_note(tmp_path: Path) -> None:
    prefill, decode = {"seconds": 1.0, "joules": 5.0, "notes": ["short"]}, {"seconds": 9.0, "joules": 95.0, "notes": []}
    stored = Scripted("t1", extra={"phases": {"source": "prometheus", "by_phase": {"prefill": prefill, "decode": decode}}})
    (model,) = built(tmp_path, stored, Scripted("t2"))["models"]
    assert model["phase_notes"] == [
        "the bounds of a phase lie more than 20 % of its joules apart: prefill in 1 of 2 tasks",
        "the energy of phases comes from samples in Prometheus in 1 of 2 tasks, coarser than the exporter's own record",
    ]


def test_the_verdict_has_three_sentences_and_names_the_winner(tmp_path: Path) -> None:
    energy, success, caveats = built(tmp_path, *CHEAP, *DEAR)["summary"]
    assert energy.startswith("cheap uses the fewest joules: 149 J [")
    assert success.startswith("cheap finishes 75.0 % [")
    assert "no difference shown from dear" in success
    assert caveats == "All 48 attempts count; 2 planned tasks left no result."


def test_no_winner_is_named_where_no_difference_is_shown(tmp_path: Path) -> None:
    same = [replace(one, model="same") for one in CHEAP]
    assert built(tmp_path, *CHEAP, *same)["summary"][0].startswith("No winner by energy can be named: ")


def test_a_comparison_that_was_refused_is_told_in_the_verdict(tmp_path: Path) -> None:
    other = [replace(one, suite="other") for one in DEAR]
    energy, success, _ = built(tmp_path, *CHEAP, *other)["summary"]
    assert "not compared, different suites" in energy
    assert "not compared with dear" in success


def test_a_run_without_a_success_says_so(tmp_path: Path) -> None:
    verdict = built(tmp_path, *(replace(one, success=False) for one in CHEAP))["summary"]
    assert verdict[:2] == [
        "No model finished a task that counts, so there are no joules per successful task.",
        "0 of 24 attempts succeeded.",
    ]


def test_what_is_left_out_is_listed_with_its_reason(tmp_path: Path) -> None:
    odd = [replace(CHEAP[0], quality="suspect", reasons=("throttled",)), replace(CHEAP[1], joules=None, quality="missing")]
    found = built(tmp_path, *odd, *CHEAP[2:])
    assert [(one["task_id"], one["reason"]) for one in found["excluded"]] == [("t0", "throttled"), ("t1", "no joules")]
    assert "1 of 24 attempts do not count (1 throttled)" in found["summary"][2]
    assert "1 attempts without joules count for success and time only" in found["summary"][2]
    assert (found["models"][0]["counted"], found["models"][0]["without_joules"]) == (23, 1)
    assert found["models"][0]["measures"]["joules_per_success"]["value"] == pytest.approx(sum(range(102, 124)) / 17)
    told = built(tmp_path / "run", *odd, *CHEAP[2:], allow=("throttled",))
    assert told["models"][0]["counted"] == 24


def test_every_format_tells_the_same(tmp_path: Path) -> None:
    found = built(tmp_path, *CHEAP, *DEAR)
    value = found["models"][0]["measures"]["joules_per_success"]
    assert json.loads(report_json(found)) == json.loads(json.dumps(found))
    rows = list(csv.DictReader(io.StringIO(report_csv(found))))
    (row,) = (
        one for one in rows if one["section"] == "model" and one["model"] == "cheap" and one["measure"] == "joules_per_success"
    )
    assert [float(row[name]) for name in ("value", "low", "high")] == pytest.approx(list(value.values()))
    shown = f"149 [{value['low']:.3g} to {value['high']:.3g}]"
    assert f"| {shown} |" in report_markdown(found)
    page = render_page(found, [])
    assert f'<td class="n">{shown}</td>' in page


def test_what_a_task_is_called_stays_text(tmp_path: Path) -> None:
    name = "</script><b>|`bad\n=1+1"
    found = built(tmp_path, replace(CHEAP[0], task_id=name, name=name, model="<i>m"), *CHEAP[1:])
    page = render_page(found, timeline_values([load_run(tmp_path / "run", timelines=True)]))
    assert "<b>" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert "<i>m" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert "&lt;/script&gt;<b>" not in page
    assert "\\|`bad =1+1" in report_markdown(found)


def test_the_timeline_has_the_phases_tools_and_power_of_a_task(tmp_path: Path) -> None:
    built(tmp_path, CHEAP[0])
    (line,) = timeline_values([load_run(tmp_path / "run", timelines=True)])
    assert [event[:3] for event in line["events"]] == [("prefill", 0, 0.9), ("decode", 0.9, 9), ("tool", 9, 10)]
    assert line["events"][2][3] == "read_file: ok, confidence 0.50"
    assert line["power"] == tuple((2.0 * part, 2.0 * part + 2, 10.0) for part in range(5))


def test_a_timeline_shows_what_was_stored_of_its_own_gpus(tmp_path: Path) -> None:
    built(tmp_path, CHEAP[0])
    found = [load_run(tmp_path / "run", timelines=True)]
    ticks = [START - 5 + n / 10 for n in range(400)]
    names = (metrics.GPU_POWER.name, metrics.GPU_UTILIZATION.name)
    gpus = [GpuSamples(str(n), f"GPU-{n}", gauges={names[0]: TimeSeries.of((at, 50.0 + n) for at in ticks)}) for n in range(2)]
    gpus[0].gauges[names[1]] = TimeSeries.of((at, 0.5) for at in ticks)
    assert timeline_windows(found) == [(START, START + 10)]
    (line,) = timeline_values(add_samples(found, Samples(gpus)))
    assert {name: len(points) for name, points in line["samples"].items()} == {"power": 51, "util": 51}
    assert line["samples"]["power"][-1] == (10.0, 50.0)
    assert line["samples"]["util"][0] == (0.0, 50.0)


def test_a_prometheus_that_fails_is_told_and_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", CHEAP)
    assert cli.main(["report", str(run), "--prometheus-url", "http://127.0.0.1:9"]) == 0
    assert "timelines without stored samples" in capsys.readouterr().err
    assert (run / "report.html").exists()


def test_what_limits_a_run_is_in_the_report_with_its_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow_tools = [replace(one, tool_seconds=6.0) for one in CHEAP]
    assert cli.main(["report", str(write(tmp_path / "run", slow_tools)), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert any("tool" in one["kind"] and one["evidence"] and one["next_step"] for one in found), found


def test_the_command_writes_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", CHEAP)
    (tmp_path / "prices.yml").write_text(PRICES)
    given = ["report", str(run), "--prices.file", str(tmp_path / "prices.yml")]
    assert cli.main(given) == 0
    assert "written to" in capsys.readouterr().out
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for format_ in ("json", "md", "csv"):
        assert cli.main([*given, "--format", format_, "--out", str(tmp_path / format_)]) == 0
        assert (tmp_path / format_).stat().st_size > 1000
    capsys.readouterr()
    assert cli.main([*given, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["utilization"] == 0.25
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / "empty")]) == 2
    assert "export the run first" in capsys.readouterr().err


def test_the_devices_of_runs_and_tasks_are_named_with_how_they_are_known(tmp_path: Path) -> None:
    declared = [replace(one, basis="declared", devices=("GPU-a0", "GPU-a1")) for one in CHEAP]
    declared[0] = replace(declared[0], basis="observed", devices=("GPU-a0",))
    content = built(tmp_path, *declared)
    (run,) = content["runs"]
    assert (run["device_bases"], run["devices"]) == ({"observed": 1, "declared": 23}, ["GPU-a0", "GPU-a1"])
    text = report_markdown(content)
    assert "| 1 observed, 23 declared | GPU-a0, GPU-a1 |" in text
    assert "| 2 declared |" in text
    assert "| 1 observed |" in text
