"""Tasks are charged for the devices that their server used, by the owner series in a real Prometheus and without any exporter.

Host A has 8 GPUs: a model server on port 8000 of two, which is started again on two others, a neighbour's vLLM on two more,
and a part of a Slurm job. Host B has the rest of the job, a server on port 8000 of its own, and a GPU that two servers share.
Host C has a GPU that is divided by MIG.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.devices import DeviceName
from joulebench.errors import UserError
from joulebench.mcpworld import backfill
from joulebench.metrics.label_sets import OWNER
from joulebench.results.annotate import Annotated, AnnotateOptions, annotate
from joulebench.results.export import Options, export
from tests.unit.results import scenario
from tests.unit.results.scenario import RUN, Planned
from tests.unit.results.store import START, Store, filled_prometheus
from tests.unit.results.test_export import Later

pytestmark = pytest.mark.e2e

OTHER_RUN = "run-2"
A, B, C = "hosta:18347", "hostb:18347", "hostc:18347"
HOSTS = {A: [f"GPU-a{i}" for i in range(8)], B: ["GPU-b0", "GPU-b1", "GPU-b2"], C: ["GPU-c0"]}
SERVING, NEIGHBOUR, IDLE = 300.0, 350.0, 60.0
LENGTH, POWER_KNOWN_SINCE = 320, -40.0
OWNERS_UNTIL = 240.0
DROPPED = (190.0, 210.0)
BEGAN = -5000.0
LARGE, SMALL = "MIG-large", "MIG-small"
SMS = {LARGE: 64, SMALL: 32}
ACTIVITY = {LARGE: 0.9, SMALL: 0.6}


@dataclass(frozen=True)
class Use:
    """From ``start`` to ``end``, seconds after START; no end: to the end of the test."""

    host: str
    gpu: str
    server: str = ""
    job: str = ""
    unit: str = ""
    start: float = BEGAN
    end: float | None = None
    mig: str = ""
    watts: float = SERVING


MOVED_AT = (60.0, 66.5)
USES = (
    *(Use(A, f"GPU-a{i}", "0.0.0.0:8000", unit="vllm.service", end=MOVED_AT[0]) for i in (0, 1)),
    *(Use(A, f"GPU-a{i}", "0.0.0.0:8000", unit="vllm.service", start=MOVED_AT[1]) for i in (4, 5)),
    *(Use(A, f"GPU-a{i}", "127.0.0.1:9000", unit="neighbour.service", watts=NEIGHBOUR) for i in (2, 3)),
    Use(A, "GPU-a6", job="77"),
    Use(B, "GPU-b0", "10.0.0.2:9100", job="77"),
    Use(B, "GPU-b1", "0.0.0.0:8000", watts=NEIGHBOUR),
    Use(B, "GPU-b2", "0.0.0.0:8100"),
    Use(B, "GPU-b2", "0.0.0.0:8101"),
    Use(C, "GPU-c0", "127.0.0.1:8200", mig=LARGE),
    Use(C, "GPU-c0", "127.0.0.1:8201", mig=SMALL),
)
TASKS = (
    Planned("first cards", 10.3, 14.75, worker="hosta-11"),
    Planned("two seconds", 20.12, 22.13, worker="hosta-11"),
    Planned("while it moves", 55.0, 70.0, worker="hosta-11"),
    Planned("second cards", 75.2, 80.9, worker="hosta-11"),
    Planned("too many owners", 200.0, 203.0, worker="hosta-11"),
    Planned("no owner series", 300.0, 303.0, worker="hosta-11"),
)
MAIN = TASKS[0]


def watts(gpu: str, at: float) -> float:
    used = [use.watts for use in USES if use.gpu == gpu and use.start <= at and (use.end is None or at < use.end)]
    return max(used, default=IDLE)


def joules(gpu: str, start: float, end: float) -> float:
    """The truth between two times after START."""
    edges = sorted({start, end, *(moment for moment in MOVED_AT if start < moment < end)})
    return sum(watts(gpu, (a + b) / 2) * (b - a) for a, b in pairwise(edges))


def truth(task: Planned, gpus: Sequence[str]) -> float:
    assert task.end is not None
    return sum(joules(gpu, task.start, task.end) for gpu in gpus)


def fill(store: Store) -> None:
    for host, gpus in HOSTS.items():
        for index, uuid in enumerate(gpus):
            labels = {"gpu": str(index), "uuid": uuid, "instance": host}
            for quarter in range(-4 * 30, 4 * LENGTH):
                at = quarter / 4
                changed = at // 0.1 * 0.1
                for job in ("joulebench-energy", *(["joulebench"] if quarter % 4 == 0 else [])):
                    of_job = {**labels, "job": job}
                    store.add(metrics.GPU_ENERGY, of_job, START + at, joules(uuid, POWER_KNOWN_SINCE, changed))
                    store.add(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, of_job, START + at, START + changed)
            for second in range(-30, LENGTH):
                _add_owners(store, {**labels, "job": "joulebench"}, second)
    for task in TASKS:
        scenario.push_task(store, task)


def _add_owners(store: Store, labels: Mapping[str, str], second: int) -> None:
    at = START + second
    if second >= OWNERS_UNTIL:
        return
    left_out = 3.0 if labels["uuid"] == "GPU-a7" and DROPPED[0] <= second <= DROPPED[1] else 0.0
    store.add(metrics.GPU_PROCESS_OWNERS_DROPPED, labels, at, left_out)
    for use in USES:
        if use.gpu != labels["uuid"] or second < use.start or (use.end is not None and second > use.end + 120):
            continue
        values = dict(zip(OWNER, (use.server, use.unit, "", "", use.job), strict=True)) | {"mig": use.mig}
        owner = {**labels, **{name: value for name, value in values.items() if value}}
        store.add(metrics.GPU_PROCESS_OWNER_START, owner, at, START + use.start)
        if use.end is not None and second > use.end:
            store.add(metrics.GPU_PROCESS_OWNER_END, owner, at, START + use.end)
        if use.mig:
            info = {"profile": "x", "gpu_instance": "1", "compute_instance": "0", "multiprocessors": str(SMS[use.mig])}
            store.add(metrics.GPU_MIG_INFO, {**labels, "mig": use.mig, **info}, at, 1.0)
            store.add(metrics.GPU_MIG_UTILIZATION, {**labels, "mig": use.mig}, at, ACTIVITY[use.mig])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(tmp_path_factory.mktemp("prometheus"), fill) as running:
        yield running


@dataclass
class Outcome:
    rows: dict[str, dict[str, Any]]
    measurements: dict[str, dict[str, Any]]
    notes: list[str]


def exported(
    url: str,
    directory: Path,
    devices: Mapping[str, object] | None = None,
    worker: str = "hosta-11",
    tasks: Sequence[Planned] = TASKS,
    **options: Any,
) -> Outcome:
    """An export of the run from its journal, in which it says ``devices``; None: the journal is lost."""
    if devices is not None:
        # The pushed tasks are of another run, beside which this one would overlap.
        folder = scenario.write_journals(directory, [replace(task, worker=worker) for task in tasks]).rename(
            directory / OTHER_RUN
        )
        journal = folder / f"journal-{worker}.jsonl"
        head, _, rest = journal.read_text().partition("\n")
        journal.write_text(json.dumps({**json.loads(head), "devices": dict(devices)}) + "\n" + rest)
    result = export(Options(RUN if devices is None else OTHER_RUN, directory, **options), PrometheusApi(url), Later())
    rows = {str(row["task_id"]): dict(row) for row in result.rows if row["worker"] == worker}
    written = {task: json.loads((result.csv_path.parent / str(row["result_file"])).read_text()) for task, row in rows.items()}
    return Outcome(rows, {task: record["measurement"] for task, record in written.items()}, result.notes)


@pytest.fixture(scope="module")
def lost(url: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The journal is lost, and whoever exports names the server."""
    return exported(url, tmp_path_factory.mktemp("lost"), server="http://hosta:8000/v1")


def is_charged(outcome: Outcome, task: Planned, host: str, gpus: Sequence[str]) -> None:
    row, measured, expected = outcome.rows[task.task_id], outcome.measurements[task.task_id], truth(task, gpus)
    assert row["total_energy_joules"] == pytest.approx(expected, rel=0.01)
    assert measured["low_joules"] <= expected <= measured["high_joules"]
    assert (row["device_basis"], row["devices"]) == ("observed", " ".join(f"{host}/{uuid}" for uuid in gpus))
    # Scrapes each 250 ms do not bound 2 s more closely.
    short = "short" if task.end is not None and task.end - task.start < 3 else ""
    assert (row["quality"], row["reasons"], row["energy_source"]) == (short or "ok", short, "prometheus")


@pytest.mark.parametrize("task", TASKS[:2], ids=lambda task: str(task.task_id))
def test_the_two_cards_of_the_server_and_no_card_of_a_neighbour_are_charged(lost: Outcome, task: Planned) -> None:
    is_charged(lost, task, A, ["GPU-a0", "GPU-a1"])


def test_a_server_that_moves_to_other_cards_is_charged_for_the_cards_of_each_task(lost: Outcome) -> None:
    is_charged(lost, TASKS[3], A, ["GPU-a4", "GPU-a5"])
    moving = lost.rows["while it moves"]
    assert moving["devices"] == f"{A}/GPU-a0 {A}/GPU-a1 {A}/GPU-a4 {A}/GPU-a5"
    assert moving["total_energy_joules"] == pytest.approx(truth(TASKS[2], ["GPU-a0", "GPU-a1", "GPU-a4", "GPU-a5"]), rel=0.01)


@pytest.mark.parametrize("task_id", ["too many owners", "no owner series"])
def test_where_owners_are_not_all_known_all_devices_are_assumed_and_it_is_said(lost: Outcome, task_id: str) -> None:
    row = lost.rows[task_id]
    assert (row["device_basis"], row["quality"], row["gpu_count"]) == ("assumed", "suspect", 12)
    assert "devices_assumed" in row["reasons"]


def test_a_server_of_the_benchmarks_own_machine_is_that_of_its_workers_host(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"gpus": [], "server": "127.0.0.1:8000", "job": None}, tasks=[MAIN])
    is_charged(outcome, MAIN, A, ["GPU-a0", "GPU-a1"])


def test_a_server_that_may_be_on_either_of_two_hosts_is_on_none(url: str, tmp_path: Path) -> None:
    own: dict[str, object] = {"gpus": [], "server": "127.0.0.1:8000", "job": None}
    outcome = exported(url, tmp_path, own, worker="w1", tasks=[MAIN])
    row = outcome.rows[MAIN.task_id]
    assert (row["device_basis"], row["quality"], row["gpu_count"]) == ("assumed", "suspect", 12)
    of_one = exported(url, tmp_path / "one", own, worker="w1", tasks=[MAIN], instance=A)
    is_charged(of_one, MAIN, A, ["GPU-a0", "GPU-a1"])


def test_an_address_that_only_one_host_serves_is_found_there(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"gpus": [], "server": "10.0.0.2:9100", "job": None}, worker="w1", tasks=[MAIN])
    is_charged(outcome, MAIN, B, ["GPU-b0"])


def test_what_the_run_said_of_its_server_counts_before_what_the_export_is_given(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"server": "hosta:8000"}, tasks=[MAIN], server="hosta:9000")
    is_charged(outcome, MAIN, A, ["GPU-a0", "GPU-a1"])


def test_declared_devices_count_before_those_that_the_server_used(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"gpus": ["GPU-a7"], "server": "hosta:8000"}, tasks=[MAIN])
    row = outcome.rows[MAIN.task_id]
    assert (row["device_basis"], row["devices"]) == ("declared", "GPU-a7")
    assert row["total_energy_joules"] == pytest.approx(truth(MAIN, ["GPU-a7"]), rel=0.01)


def test_a_slurm_job_is_charged_for_its_cards_on_both_hosts(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"gpus": [], "server": None, "job": "77"}, tasks=[MAIN])
    row = outcome.rows[MAIN.task_id]
    assert (row["device_basis"], row["devices"], row["quality"]) == ("observed", f"{A}/GPU-a6 {B}/GPU-b0", "ok")
    assert row["total_energy_joules"] == pytest.approx(truth(MAIN, ["GPU-a6", "GPU-b0"]), rel=0.01)


def test_of_a_card_that_two_servers_share_only_the_bounds_are_known(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"server": "hostb:8100"}, tasks=[MAIN])
    row, measured = outcome.rows[MAIN.task_id], outcome.measurements[MAIN.task_id]
    assert (row["total_energy_joules"], row["quality"], row["reasons"]) == (None, "missing", "gpu_shared")
    assert measured["low_joules"] == 0
    assert truth(MAIN, ["GPU-b2"]) <= measured["high_joules"] <= 1.1 * truth(MAIN, ["GPU-b2"])
    assert (row["device_basis"], row["devices"]) == ("observed", f"{B}/GPU-b2")


def test_a_mig_instance_gets_its_part_of_the_gpu_as_an_estimate(url: str, tmp_path: Path) -> None:
    outcome = exported(url, tmp_path, {"server": "hostc:8200"}, tasks=[MAIN])
    row, measured = outcome.rows[MAIN.task_id], outcome.measurements[MAIN.task_id]
    share = SMS[LARGE] * ACTIVITY[LARGE] / sum(SMS[mig] * ACTIVITY[mig] for mig in SMS)
    whole = truth(MAIN, ["GPU-c0"])
    assert row["total_energy_joules"] == pytest.approx(share * whole, rel=0.01)
    assert measured["low_joules"] == 0
    assert measured["high_joules"] >= whole
    assert (row["quality"], row["reasons"], row["device_basis"]) == ("suspect", "mig_estimated", "observed")
    (device,) = measured["devices"]
    assert (device["uuid"], device["parent"], device["host"]) == (LARGE, "GPU-c0", C)
    assert device["share"] == pytest.approx(share)


def test_a_backfilled_session_is_charged_for_the_cards_that_the_server_used(url: str, tmp_path: Path) -> None:
    paths = {}
    for task in (MAIN, TASKS[3]):
        assert task.end is not None
        events = [
            {"event_type": "TASK_START", "timestamp": START + task.start},
            {"event_type": "TASK_END", "timestamp": START + task.end, "status": "success"},
        ]
        metadata = {"model_name": "m", "task_config_at_start": {"task_id": task.task_id.replace(" ", "_")}}
        paths[task.task_id] = tmp_path / f"result_{task.task_id.replace(' ', '_')}.json"
        paths[task.task_id].write_text(json.dumps({"metadata": metadata, "raw_events": events}))
    report = backfill.backfill(backfill.Options(tmp_path, server="hosta:8000"), PrometheusApi(url))
    assert [outcome.status for outcome in report.outcomes] == [backfill.FILLED] * 2
    for task, gpus in ((MAIN, ("GPU-a0", "GPU-a1")), (TASKS[3], ("GPU-a4", "GPU-a5"))):
        written = json.loads(paths[task.task_id].read_text())
        measured = written["measurement"]
        assert measured["joules"] == pytest.approx(truth(task, gpus), rel=0.01)
        assert (measured["device_basis"], measured["quality"]) == ("observed", "ok")
        assert [device["uuid"] for device in measured["devices"]] == list(gpus)
        assert written["windows"]["task"]["joules"] == pytest.approx(truth(task, gpus), rel=0.01)
        assert written["attribution"]["attributed"] == pytest.approx(measured["joules"])


def annotated(
    url: str, path: Path, server: str, windows: Sequence[tuple[float, float]]
) -> tuple[Annotated, list[dict[str, str]]]:
    """A table with a row for each window, seconds after START, with joules beside it."""
    path.write_text("from,to\n" + "".join(f"{START + a!r},{START + b!r}\n" for a, b in windows), encoding="utf-8")
    options = AnnotateOptions(path, "from", "to", server=server)
    done = annotate(options, PrometheusApi(url), Later())
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return done, [{name.removeprefix("joulebench_"): cell for name, cell in row.items()} for row in rows]


def test_each_row_of_a_table_has_the_joules_of_the_cards_that_the_server_used_then(url: str, tmp_path: Path) -> None:
    planned = [task for task in TASKS if task.end is not None]
    windows = [(task.start, task.end) for task in planned if task.end is not None]
    done, rows = annotated(url, tmp_path / "rows.csv", "http://hosta:8000/v1", windows)
    first, second = ["GPU-a0", "GPU-a1"], ["GPU-a4", "GPU-a5"]
    for task, row, gpus in zip(planned, rows, (first, first, [*first, *second], second), strict=False):
        # Two seconds of samples each 250 ms are too short for narrow bounds.
        quality = "short" if task.task_id == "two seconds" else "ok"
        assert (row["device_basis"], row["devices"].split(), row["quality"]) == ("observed", gpus, quality), task
        assert float(row["joules"]) == pytest.approx(truth(task, gpus), rel=0.01)
    assert [row["device_basis"] for row in rows[4:]] == ["assumed", "assumed"]
    assert all(row["quality"] != "ok" and "devices_assumed" in row["reasons"] for row in rows[4:])
    assert done.notes == ("2 rows: Prometheus does not know which GPUs http://hosta:8000/v1 used, so all are assumed",)


def test_rows_share_the_joules_of_a_card_with_the_rows_that_used_it_and_no_others(url: str, tmp_path: Path) -> None:
    # The first two lie over each other on the first cards; the long one was on all four.
    windows = [(20.0, 30.0), (25.0, 35.0), (58.0, 80.0), (72.0, 76.0)]
    _, rows = annotated(url, tmp_path / "rows.csv", "hosta:8000", windows)
    shares = [float(row["attributed_joules"]) for row in rows]
    assert shares[0] + shares[1] == pytest.approx(joules("GPU-a0", 20.0, 35.0) * 2, rel=0.01)
    assert [float(row["overlap_fraction"]) for row in rows] == pytest.approx([0.5, 0.5, 4 / 22, 1.0], rel=1e-3)
    moved = 2 * joules("GPU-a0", 58.0, 80.0) + 2 * joules("GPU-a4", 58.0, 80.0)
    assert shares[2] + shares[3] == pytest.approx(moved, rel=0.01)
    assert shares[3] == pytest.approx(joules("GPU-a4", 72.0, 76.0), rel=0.01)


def test_a_row_on_a_card_that_two_servers_share_has_bounds_and_no_joules(url: str, tmp_path: Path) -> None:
    _, (row,) = annotated(url, tmp_path / "rows.csv", "hostb:8100", [(20.0, 30.0)])
    assert (row["joules"], row["quality"], row["devices"]) == ("", "missing", "GPU-b2")
    assert "gpu_shared" in row["reasons"]
    assert float(row["low_joules"]) == 0.0
    assert joules("GPU-b2", 20.0, 30.0) <= float(row["high_joules"]) <= joules("GPU-b2", 19.75, 30.25)


def test_a_server_that_prometheus_does_not_know_is_looked_up_now_or_all_are_assumed(url: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    done, (row,) = annotated(url, path, "hosta:9999", [(20.0, 30.0)])
    assert (row["device_basis"], row["quality"]) == ("assumed", "suspect")
    given = AnnotateOptions(path, "from", "to", server="hosta:9999", used_now=lambda: (DeviceName(None, "GPU-a2"),))
    done = annotate(given, PrometheusApi(url), Later())
    (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert (row["joulebench_devices"], row["joulebench_device_basis"]) == ("GPU-a2", "observed")
    assert "those that it uses now are taken" in done.notes[0]


def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--server: .* is not HOST:PORT"):
        exported(url, tmp_path, server="hosta")
