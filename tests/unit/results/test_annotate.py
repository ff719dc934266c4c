"""Tables of anybody's with joules beside each row: the export's numbers, whatever the times look like, and twice is once."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from joulebench.cli import main
from joulebench.clients.prometheus import PrometheusApi
from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork
from joulebench.energy.curve import EnergyCurve
from joulebench.energy.equal_shares import equal_shares, shared_time
from joulebench.errors import UserError
from joulebench.results.annotate import Annotated, AnnotateOptions, annotate
from joulebench.results.export import Options, export
from joulebench.results.row_files import detect_times
from tests.unit.clients.test_exporter_group import Host
from tests.unit.results import scenario
from tests.unit.results.scenario import RUN
from tests.unit.results.store import START, filled_prometheus
from tests.unit.results.test_export import Later
from tests.unit.results.test_meter_export import METERS, fill_meters

CPU_PACKAGE = tuple(meter for meter in METERS if meter.name == "cpu_package")


def test_equal_shares_are_those_of_the_attribution() -> None:
    random = Random(3)
    at = np.arange(0.0, 400.0)
    curve = EnergyCurve(at, np.cumsum(np.array([random.uniform(50, 400) for _ in at])), np.zeros(len(at)))
    starts = [random.uniform(5.0, 350.0) for _ in range(80)]
    windows = [(start, start + random.uniform(0.0, 30.0)) for start in starts]
    done = attribute({"g": curve}, [TaskWork(str(i), *window) for i, window in enumerate(windows)])
    time = shared_time(*np.array(windows).T)
    found = equal_shares(curve, time)
    for i, task in enumerate(done.tasks):
        share = task.total
        assert found.attributed[i] == pytest.approx(share.attributed, abs=1e-6)
        assert found.lower[i] == pytest.approx(share.lower, abs=1e-6)
        assert found.upper[i] == pytest.approx(share.upper, abs=1e-6)
        assert time.overlap[i] == pytest.approx(task.overlap_fraction, abs=1e-9)


@pytest.mark.parametrize(
    ("sample", "form"),
    [
        ("1700000000.25", "epoch seconds"),
        (1700000000, "epoch seconds"),
        ("1700000000250", "epoch milliseconds"),
        (1700000000250000, "epoch microseconds"),
        ("1700000000250000000", "epoch nanoseconds"),
        ("2023-11-14T22:13:20.25Z", "ISO 8601"),
        ("2023-11-14 23:13:20.25+01:00", "ISO 8601"),
        ("2023-11-14T22:13:20.250000001+0000", "ISO 8601"),
        ("2023-11-14 22:13:20,25", "ISO 8601 without a zone, taken as UTC"),
    ],
)
def test_times_are_detected(sample: object, form: str) -> None:
    reader = detect_times(sample, "--start a")
    assert reader.form == form
    assert reader.read(sample) == pytest.approx(1_700_000_000.0 + (0.0 if sample == 1700000000 else 0.25), abs=1e-3)
    assert reader.read("later") is None


@pytest.mark.parametrize("sample", ["12.5", "yesterday", True, [1], "nan"])
def test_what_is_no_time_is_refused_with_its_column(sample: object) -> None:
    with pytest.raises(UserError, match=r"--start a: .*epoch seconds"):
        detect_times(sample, "--start a")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(tmp_path_factory.mktemp("prometheus"), scenario.fill, fill_meters) as running:
        yield running


@pytest.fixture(scope="module")
def results_csv(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    scenario.write_journals(runs)
    return export(Options(RUN, runs, meters=METERS), PrometheusApi(url), Later()).csv_path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def run(url: str, path: Path, start: str, end: str, **more: Any) -> Annotated:
    return annotate(AnnotateOptions(path, start, end, **more), PrometheusApi(url), Later())


SAME = {
    "joules": "total_energy_joules",
    "low_joules": "energy_low_joules",
    "high_joules": "energy_high_joules",
    "throttled_seconds": "throttled_seconds",
    "coverage": "energy_coverage",
    "samples": "energy_samples",
    "overlap_fraction": "overlap_fraction",
    "devices": "devices",
    "device_basis": "device_basis",
}


@pytest.mark.e2e
def test_the_numbers_are_those_of_the_export(url: str, results_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    shutil.copy(results_csv, path)
    found = run(url, path, "start_timestamp_seconds", "end_timestamp_seconds", meters=METERS)
    rows = rows_of(path)
    assert (found.rows, found.times) == (10, ("epoch seconds", "epoch seconds"))
    assert len([row for row in rows if row["joulebench_joules"]]) >= 7
    for row in rows:
        assert {name: row[f"joulebench_{name}"] for name in SAME} == {name: row[column] for name, column in SAME.items()}
        for meter in METERS:
            for name in ("joules", "low_joules", "high_joules", "coverage"):
                assert row[f"joulebench_meter_{meter.name}_{name}"] == row[f"meter_{meter.name}_{name}"], (row["task_id"], meter)
    (unfinished,) = (row for row in rows if not row["end_timestamp_seconds"])
    assert (unfinished["joulebench_quality"], unfinished["joulebench_reasons"]) == ("missing", "no_end")


@pytest.mark.e2e
def test_shares_of_rows_add_up(url: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    # The first two lie over each other from 64 to 66 s.
    path.write_text("a,b\n" + "".join(f"{START + a},{START + b}\n" for a, b in ((62, 66), (64, 68), (62, 68), (70, 71))))
    run(url, path, "a", "b", meters=CPU_PACKAGE)
    rows = rows_of(path)
    for name in ("", "meter_cpu_package_"):
        shares = [float(row[f"joulebench_{name}attributed_joules"]) for row in rows[:3]]
        assert sum(shares) == pytest.approx(float(rows[2][f"joulebench_{name}joules"]), rel=1e-6)
    assert [float(row["joulebench_overlap_fraction"]) for row in rows] == [1, 1, 1, 0]
    assert rows[3]["joulebench_attributed_joules"] == rows[3]["joulebench_joules"]
    assert float(rows[3]["joulebench_mean_watts"]) == pytest.approx(float(rows[3]["joulebench_joules"]))


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat()


WINDOWS = ((START + 10.037, START + 16.412), (START + 72.25, START + 76.75))


@pytest.mark.e2e
def test_every_form_of_time_and_table_gives_the_same_joules(url: str, tmp_path: Path) -> None:
    def csv_text(delimiter: str, end: str, form: Any) -> str:
        lines = [delimiter.join(("name", "from", "to")), *(delimiter.join(("x", form(a), form(b))) for a, b in WINDOWS)]
        return end.join(lines) + end

    tables: Mapping[str, bytes] = {
        "seconds.csv": csv_text(",", "\n", repr).encode(),
        "millis.csv": csv_text(";", "\r\n", lambda at: f"{at * 1000:.0f}").encode("utf-8-sig"),
        "iso.tsv": csv_text("\t", "\n", iso).encode("utf-16"),
        "lines.jsonl": b"".join(
            json.dumps({"from": round(a * 1e9), "to": round(b * 1e9)}).encode() + b"\n\n" for a, b in WINDOWS
        ),
    }
    joules = []
    for name, content in tables.items():
        path = tmp_path / name
        path.write_bytes(content)
        run(url, path, "from", "to")
        once = path.read_bytes()
        run(url, path, "from", "to")
        assert path.read_bytes() == once, name
        if name.endswith("jsonl"):
            joules.append([json.loads(line)["joulebench"]["joules"] for line in once.splitlines() if line])
        else:
            encoding = {"millis.csv": "utf-8-sig", "iso.tsv": "utf-16"}.get(name, "utf-8")
            delimiter = {"millis.csv": ";", "iso.tsv": "\t"}.get(name, ",")
            table = csv.DictReader(once.decode(encoding).splitlines(), delimiter=delimiter)
            joules.append([float(row["joulebench_joules"]) for row in table])
    assert joules[1:] == [pytest.approx(joules[0], rel=1e-3)] * 3


@pytest.mark.e2e
def test_values_of_a_json_line_keep_their_text(url: str, tmp_path: Path) -> None:
    path, out = tmp_path / "aiperf.jsonl", tmp_path / "out.jsonl"
    ns = [round(at * 1e9) for at in WINDOWS[0]]
    metadata = f'{{"metadata":{{"request_start_ns":{ns[0]},"request_end_ns":{ns[1]}}}'
    head = metadata + ',"huge":123456789012345678901234567890,"x":1.50,"t":"\\u00e9"'
    path.write_text(head + "}\n", encoding="utf-8")
    found = run(url, path, "metadata.request_start_ns", "metadata.request_end_ns", out=out, meters=CPU_PACKAGE)
    assert found.times == ("epoch nanoseconds", "epoch nanoseconds")
    assert path.read_text(encoding="utf-8") == head + "}\n"
    line = out.read_text(encoding="utf-8")
    assert line.startswith(head + ',"joulebench":{"joules":')
    assert json.loads(line)["joulebench"]["meter_cpu_package_scope"] == "cpu"


def test_the_command_refuses_what_it_cannot_read_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: Sequence[tuple[str, str, str]] = (
        ("a.csv", "x,y\n1,2\n", "--start: "),
        ("a.csv", "from,to\n12,13\n", "'12' is no time of a day"),
        ("a.csv", "from,to\n,\n", "no row of"),
        ("a.jsonl", f'{{"from": {START}, "to": {START}}}\nnot json\n', "line 2: is no JSON object"),
        ("a.txt", "from,to\n", "neither .csv nor .jsonl"),
    )
    for name, text, message in cases:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert main(["annotate", str(path), "--start", "from", "--end", "to", "--prometheus-url", "http://127.0.0.1:9"]) == 2
        assert message in capsys.readouterr().err
        assert path.read_text(encoding="utf-8") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.txt"]


@pytest.mark.e2e
def test_the_command_names_devices_and_says_how_it_read_the_times(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    long = "a" * (csv.field_size_limit() + 1)
    path.write_text(f"from,to,joulebench_note\n{WINDOWS[0][0]!r},{WINDOWS[0][1]!r},{long}\nsoon,{START!r},b\n", encoding="utf-8")
    arguments = ["annotate", str(path), "--start", "from", "--end", "to", "--prometheus-url", url, "--wait", "0"]
    meters = tmp_path / "meters.yml"
    meters.write_text("emissions: {carbon: {grams_per_kwh: 420, source: a, date: 2026-10-01, of: gpu}}", encoding="utf-8")
    assert main([*arguments, "--gpus", "0", "--meters", str(meters)]) == 0
    printed = capsys.readouterr()
    assert "times: epoch seconds\n" in printed.out
    assert "2 rows (1 " in printed.out
    assert csv.field_size_limit() < len(long)
    limit = csv.field_size_limit(2 * len(long))
    try:
        first, second = rows_of(path)
    finally:
        csv.field_size_limit(limit)
    assert (first["joulebench_devices"], first["joulebench_device_basis"]) == ("GPU-aaaa", "declared")
    assert float(first["joulebench_joules"]) == pytest.approx(300.0 * 6.375, rel=0.01)
    assert (second["joulebench_joules"], second["joulebench_reasons"]) == ("", "no_start")
    # A column of the user's that only looks like ours.
    assert (first["joulebench_note"], second["joulebench_note"]) == (long, "b")
    grams = 420 * float(first["joulebench_joules"]) / 3.6e6
    assert float(first["joulebench_carbon_grams"]) == pytest.approx(grams, rel=1e-6)
    given = [first[f"joulebench_carbon_{name}"] for name in ("factor", "of", "source", "date", "quality")]
    assert given == ["420", "gpu", "a", "2026-10-01", first["joulebench_quality"]]
    assert (second["joulebench_carbon_grams"], second["joulebench_carbon_quality"]) == ("", "missing")
    # A second run without factors takes the columns of the first away, and no others.
    assert main([*arguments, "--gpus", "0"]) == 0
    capsys.readouterr()
    header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header[:3] == ["from", "to", "joulebench_note"]
    assert not any("carbon" in name for name in header)
    before = path.read_bytes()
    assert main([*arguments, "--gpus", "7"]) == 2
    assert "--gpus: 7 matches no GPU" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.e2e
def test_the_gpus_of_a_server_that_prometheus_does_not_know_are_those_that_the_exporter_sees_it_use(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"from,to\n{WINDOWS[0][0]!r},{WINDOWS[0][1]!r}\n", encoding="utf-8")
    before = path.read_bytes()
    arguments = ["annotate", str(path), "--start", "from", "--end", "to", "--prometheus-url", url, "--wait", "0"]
    arguments += ["--server", "127.0.0.1:11434", "--exporter-url"]
    for serving, code in (((), 2), (("GPU-bbbb",), 0)):
        host = Host({"GPU-aaaa": 1.0, "GPU-bbbb": 2.0}, serving)
        try:
            assert main([*arguments, f"http://{host.name}"]) == code
        finally:
            host.stop()
        if code:
            assert "no exporter sees it use one now" in capsys.readouterr().err
            assert path.read_bytes() == before
    (row,) = rows_of(path)
    assert (row["joulebench_devices"], row["joulebench_device_basis"]) == ("GPU-bbbb", "observed")
    assert float(row["joulebench_joules"]) == pytest.approx(100.0 * 6.375, rel=0.01)
