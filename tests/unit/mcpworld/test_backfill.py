"""37 result files with what goes wrong in real ones: what is known is filled in, nothing else changes, nothing is made up."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from joulebench.devices import parse_devices
from joulebench.errors import UserError
from joulebench.mcpworld import backfill as room
from joulebench.mcpworld.backfill import Options, Report, backfill
from joulebench.mcpworld.client_names import HARDWARE_KEYS
from tests.fakes import mcpworld_tree
from tests.fakes.mcpworld_tree import Made, Tree

OURS = {
    "gpu_hardware_metrics",
    "gpu_hardware_metrics_before",
    "measurement",
    "per_gpu",
    "throttle",
    "phases",
    "attribution",
    "windows",
    "generation",
}
UNREADABLE, UNSEEN = {7, 8}, {30}


def made_with_log(root: Path) -> Tree:
    made = mcpworld_tree.make(root)
    log = made.root / "vscode_runs" / "gpu_logs" / "gpu_metrics_qwen.csv"
    log.parent.mkdir()
    log.write_text("\n".join(mcpworld_tree.monitor_rows(made, mcpworld_tree.START, made.end + 10)) + "\n")
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """For a test that writes."""
    return made_with_log(tmp_path / "logs")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Filled once, for tests that only read."""
    tree = made_with_log(tmp_path_factory.mktemp("logs"))
    filled(tree)
    return tree


def filled(tree: Tree) -> Report:
    return backfill(Options(tree.root), None)


def body(one: Made) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one.path.read_text(encoding="utf-8-sig"))
    return found


def measured(tree: Tree) -> list[Made]:
    return [one for one in tree.made if one.index not in UNREADABLE | UNSEEN]


def test_every_file_is_told_and_only_two_cannot_be_read(tree: Tree) -> None:
    report = filled(tree)
    assert len(report.outcomes) == 37
    assert {one.path for one in report.outcomes if one.status == room.FAILED} == {tree.made[7].path, tree.made[8].path}
    assert [one.path for one in report.outcomes if one.status == room.NOT_MEASURED] == [tree.made[30].path]
    assert report.count(room.FILLED) == 34
    assert all(one.reasons for one in report.outcomes if one.quality != "ok")
    assert not report.all_measured


def test_the_energy_is_that_of_the_headline_window(done: Tree) -> None:
    for one in measured(done):
        found = body(one)["gpu_hardware_metrics"]
        assert found["total_energy_joules"] == pytest.approx(done.joules(*one.headline), rel=0.01), one.index
        assert found["monitoring_duration_sec"] == pytest.approx(one.headline[1] - one.headline[0])


def test_a_second_time_changes_nothing(tree: Tree) -> None:
    filled(tree)
    before = {one.path: (one.path.read_bytes(), one.path.stat().st_mtime_ns) for one in tree.made}
    report = filled(tree)
    assert {one.path: (one.path.read_bytes(), one.path.stat().st_mtime_ns) for one in tree.made} == before
    assert (report.count(room.UNCHANGED), report.count(room.FILLED)) == (34, 0)


def test_a_dry_run_tells_the_same_and_writes_nothing(tree: Tree) -> None:
    before = {one.path: one.path.read_bytes() for one in tree.made}
    dry = backfill(Options(tree.root, dry_run=True), None)
    assert {one.path: one.path.read_bytes() for one in tree.made} == before
    assert dry.outcomes == filled(tree).outcomes


def test_what_the_client_wrote_keeps_its_bytes_and_its_order(done: Tree) -> None:
    for one in done.made:
        new = one.path.read_bytes().decode("utf-8")
        if one not in measured(done):
            assert new == one.text
            continue
        if "gpu_hardware_metrics" not in one.body:
            kept = one.text.rstrip()[:-1].rstrip()
            assert new.startswith(kept), one.index
            assert new[len(kept)] == ","
        before, after = json.loads(one.text.removeprefix("\ufeff")), body(one)
        assert [key for key in after if key in before] == list(before)
        for key in before:
            if key != "gpu_hardware_metrics":
                assert repr(after[key]) == repr(before[key])
        assert OURS - {"gpu_hardware_metrics_before"} <= set(after)


def test_line_ends_and_layout_stay_those_of_the_file(done: Tree) -> None:
    assert b"\n" not in done.made[14].path.read_bytes()
    crlf = done.made[15].path.read_bytes()
    assert crlf.count(b"\n") == crlf.count(b"\r\n") > 100
    assert done.made[16].path.read_bytes().startswith(b"\xef\xbb\xbf{")


def test_all_43_keys_are_there_in_their_order(done: Tree) -> None:
    assert len(HARDWARE_KEYS) == 43
    for one in measured(done):
        assert list(body(one)["gpu_hardware_metrics"]) == list(HARDWARE_KEYS)


def test_nothing_missing_became_a_zero(done: Tree) -> None:
    assert done.made[30].path.read_text() == done.made[30].text, "nothing measured this session, so nothing is written"
    for one in measured(done):
        # Utilisation and phases may truly be 0; no other number of this scene is.
        zeros = {name for name, value in body(one)["gpu_hardware_metrics"].items() if value == 0}
        assert zeros <= {"min_gpu_util_pct"}, one.index


def test_the_wait_for_a_verdict_is_told_and_not_charged(done: Tree) -> None:
    for one in (done.made[4], done.made[5]):
        windows = body(one)["windows"]
        assert windows["headline"]["end"] == one.calls[-1][1]
        assert windows["evaluator_wait"]["seconds"] > 120
        assert windows["evaluator_wait"]["joules"] == pytest.approx(105.0 * windows["evaluator_wait"]["seconds"], rel=0.03)
        whole = windows["headline"]["joules"] + windows["evaluator_wait"]["joules"]
        assert windows["session"]["joules"] == pytest.approx(whole, rel=1e-9)
        assert body(one)["measurement"]["window_ends_with"] == "last_agent_event"


def test_a_repeated_end_counts_once_and_work_after_the_verdict_counts(done: Tree) -> None:
    repeated, worked = body(done.made[3]), body(done.made[26])
    assert (repeated["windows"]["headline"]["end"], repeated["measurement"]["notes"]) == (
        done.made[3].headline[1],
        ["task_end_repeated"],
    )
    assert worked["windows"]["headline"]["end"] == done.made[26].body["metadata"]["session_end_unix"]


def test_the_clients_own_numbers_are_kept_beside(done: Tree) -> None:
    found = body(done.made[9])
    assert found["gpu_hardware_metrics_before"] == {"avg_power_w": 0.0, "total_energy_joules": 0.0, "sample_count": 12}
    assert found["gpu_hardware_metrics"]["total_energy_joules"] > 1000


def test_tasks_with_the_same_short_id_are_told_apart(done: Tree) -> None:
    first, other, copy = (body(done.made[index])["measurement"] for index in (0, 25, 18))
    assert (first["task_key"], other["task_key"]) == ("vscode/task01_updateColorTheme1", "obsidian/task01_createNote1")
    assert copy["primary_key"] == first["primary_key"]
    keys = {body(one)["measurement"]["primary_key"] for one in measured(done)}
    assert len(keys) == 33


def test_overlapping_sessions_share_and_a_copy_shares_nothing(done: Tree) -> None:
    one, other = body(done.made[22]), body(done.made[23])
    assert one["attribution"]["overlap_fraction"] > 0
    assert "overlap" in one["measurement"]["reasons"]
    assert "overlap" in other["measurement"]["reasons"]
    together = done.joules(done.made[22].headline[0], done.made[23].headline[1])
    parts = [found["attribution"] for found in (one, other)]
    assert sum(part["attributed"] for part in parts) <= together * 1.01
    assert body(done.made[0])["attribution"]["overlap_fraction"] == 0


def test_a_first_token_counts_only_where_the_reply_was_streamed(done: Tree) -> None:
    whole, streamed = body(done.made[2])["generation"], body(done.made[27])["generation"]
    assert (whole["ttft_measured_calls"], whole["avg_ttft_ms"], whole["ttft_stamped_with_whole_reply"]) == (0, None, 3)
    assert whole["decode_tokens_per_second"] is None
    assert (streamed["ttft_measured_calls"], streamed["avg_ttft_ms"]) == (3, pytest.approx(300.0))
    seconds = sum(b - a for a, b in done.made[27].calls)
    assert streamed["end_to_end_tokens_per_second"] == pytest.approx(3 * 87 / seconds)
    assert streamed["decode_tokens_per_second"] == pytest.approx(3 * 86 / (seconds - 0.9))


def test_the_container_is_told_from_the_log(done: Tree) -> None:
    found = body(done.made[0])["gpu_hardware_metrics"]
    assert (found["avg_container_cpu_pct"], found["peak_container_mem_mb"]) == (pytest.approx(150.5), 2048)


def test_a_later_run_without_telemetry_keeps_what_is_known(tree: Tree) -> None:
    filled(tree)
    before = {one.path: one.path.read_bytes() for one in tree.made}
    (tree.root / "vscode_runs/gpu_logs/gpu_metrics_qwen.csv").unlink()
    report = filled(tree)
    assert {one.path: one.path.read_bytes() for one in tree.made} == before
    assert report.count(room.KEPT) == 34


def test_without_telemetry_the_clients_own_numbers_stay(tmp_path: Path) -> None:
    tree = mcpworld_tree.make(tmp_path)
    report = filled(tree)
    assert report.count(room.NOT_MEASURED) == 35
    assert {one.index for one in tree.made if one.path.read_bytes().decode() != one.text} == {9}, "its 0 J are no measurement"
    assert "no_telemetry_given" in report.outcomes[0].reasons


def test_a_file_that_cannot_be_written_is_told(tree: Tree) -> None:
    # As root no mode stops a write; a name that is too long for the file beside it does.
    long = tree.made[0].path.with_name(f"result_20231114_221340_{'x' * 225}.json")
    tree.made[0].path.rename(long)
    report = filled(tree)
    (failed,) = [one for one in report.outcomes if one.path == long]
    assert failed.status == room.FAILED
    assert "cannot be written" in failed.reasons[0]
    assert long.read_bytes().decode() == tree.made[0].text


def test_the_files_mode_stays(tree: Tree) -> None:
    tree.made[0].path.chmod(0o640)
    filled(tree)
    assert tree.made[0].path.stat().st_mode & 0o777 == 0o640
    assert not list(tree.root.rglob("*.tmp"))


def test_a_place_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result_"):
        backfill(Options(tmp_path), None)
    with pytest.raises(UserError, match="does not exist"):
        backfill(Options(tmp_path / "nowhere"), None)


def test_a_zero_that_the_client_invented_becomes_null_and_is_kept_beside(tree: Tree) -> None:
    one = tree.made[30]
    zeros = {"avg_power_w": 0.0, "total_energy_joules": 0.0, "sample_count": 12}
    one.path.write_text(json.dumps({**one.body, "gpu_hardware_metrics": zeros}))
    report = filled(tree)
    (outcome,) = [outcome for outcome in report.outcomes if outcome.path == one.path]
    assert (outcome.status, outcome.joules) == (room.NOT_MEASURED, None)
    assert "client_wrote_0_joules" in outcome.reasons
    found = body(one)
    assert found["gpu_hardware_metrics"]["total_energy_joules"] is None
    assert found["gpu_hardware_metrics_before"] == zeros
    assert found["measurement"]["notes"][-1] == "client_wrote_0_joules"
    assert set(found) - set(one.body) == {"gpu_hardware_metrics", "gpu_hardware_metrics_before", "measurement"}
    assert filled(tree).count(room.NOT_MEASURED) == 1


def test_devices_that_are_named_are_charged_and_said(tree: Tree) -> None:
    """The monitor read one of two cards, so a file is charged for it alone."""
    log = tree.root / "vscode_runs" / "gpu_logs" / "gpu_metrics_qwen.csv"
    header, *rows = log.read_text().splitlines()
    log.write_text("\n".join([f"{header},gpu_devices", *(f"{row},1:GPU-one" for row in rows)]) + "\n")
    with pytest.raises(UserError, match=r"--gpus: 0 matches no GPU; there are: 1 \(GPU-one\)"):
        backfill(Options(tree.root, devices=parse_devices("0", "--gpus")), None)
    assert backfill(Options(tree.root, devices=parse_devices("GPU-one", "--gpus")), None).count(room.FILLED) == 34
    found = body(tree.made[0])["measurement"]
    assert (found["device_basis"], [device["uuid"] for device in found["devices"]]) == ("declared", ["GPU-one"])
    assert found["joules"] == pytest.approx(tree.joules(*tree.made[0].headline), rel=0.01)


def test_impossible_times_and_numbers_of_the_client_end_no_backfill(tmp_path: Path) -> None:
    events = [
        {"event_type": "LLM_QUERY_START", "timestamp": 1_700_000_000.0},
        {"event_type": "LLM_QUERY_END", "timestamp": 1_700_000_001.0, "status": "success", "completion_tokens": 10**30},
        {"event_type": "TASK_END", "timestamp": 1e18, "status": "success"},
    ]
    for number, end in enumerate((1e18, 253402300800.0, 10**400), start=1):
        metadata = {"task_id": f"t{number}", "session_start_unix": 1_700_000_000.0, "session_end_unix": end}
        body = {"metadata": metadata, "computed_metrics": {}, "raw_events": events}
        (tmp_path / f"result_t{number}_20261201_000000.json").write_text(json.dumps(body))
    os.mkfifo(tmp_path / "gpu_metrics_1.csv")
    report = backfill(Options(root=tmp_path), None)
    assert len(report.outcomes) == 3
    for path in tmp_path.glob("result_*.json"):
        assert json.loads(path.read_text())["metadata"]["session_start_unix"] == 1_700_000_000.0
