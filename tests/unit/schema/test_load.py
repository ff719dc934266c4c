"""Result files of every origin through the one reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from joulebench.analysis.prediction.records import load_task_records
from joulebench.errors import UserError
from joulebench.schema import UnreadableResult, load_result, load_results, result_from_json

OURS: dict[str, Any] = {
    "schema_version": 1,
    "metadata": {"run_id": "r", "task_id": "t", "worker": "w", "session_start_unix": 1000.5, "session_end_unix": 1002},
    "raw_events": [{"event_type": "TASK_START", "timestamp": 1000.5}],
    "computed_metrics": {"llm_token_usage": {"total_prompt_tokens": 7}},
    "measurement": {"joules": 12.5, "quality": "ok", "reasons": []},
    "per_gpu": [{"gpu": "0", "energy": {"joules": 12.5}, "link_bytes": {"pcie": {"rx": {"bytes": 5.0}}}}],
    "calls": [{"call": 1, "joules": 3.5}],
    "attribution": {"attributed": 6.25, "overlap_fraction": 0.5, "method": "equal_share"},
    "a_section_of_a_later_version": {"x": 1},
}
CLIENT: dict[str, Any] = {
    "metadata": {"model_name": "m", "session_start_unix": 1.0, "session_end_unix": 4.0, "available_tools": ["a"]},
    "raw_events": [
        {"event_type": "LLM_QUERY_START", "timestamp": 1.0},
        {"event_type": "LLM_QUERY_END", "timestamp": 3.0, "duration_seconds": 1.5, "completion_tokens": 8, "status": "success"},
        {"no": "event"},
    ],
    "computed_metrics": {
        "total_duration_seconds": "ERROR_GETTING_VALUE: division by zero",
        "llm_token_usage": {"total_prompt_tokens": 3, "total_completion_tokens": "many"},
        "tool_usage_stats": "ERROR_GETTING_VALUE: no tools",
    },
    "gpu_hardware_metrics": {"total_energy_joules": 44.0, "avg_power_w": float("nan")},
}


def written(path: Path, body: object) -> Path:
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_our_file_comes_back_with_its_numbers(tmp_path: Path) -> None:
    result = load_result(written(tmp_path / "result_1.json", OURS))
    assert result.key == ("r", "t", "w")
    assert result.window == (1000.5, 1002.0)
    assert (result.measurement.joules, result.charged_joules, result.overlapped) == (12.5, 6.25, True)
    assert result.per_gpu[0].link_bytes["pcie"]["rx"].bytes == 5.0
    assert result.calls[0].joules == 3.5
    assert result.path == tmp_path / "result_1.json"
    assert result.is_measured


def test_events_that_cannot_be_joined_to_a_call_are_left_out(tmp_path: Path) -> None:
    good = {"event_type": "TOOL_CALL_END", "tool_call": 1, "outcome": "ok", "source": ["x"]}
    odd = [{**good, "tool_call": [1]}, {**good, "call": {"a": 1}}, {**good, "event_type": []}, {"tool_call": 1}, 7]
    path = written(tmp_path / "result_1.json", {**OURS, "raw_events": [*odd, good], "call_energy": [*odd, good]})
    result = load_result(path)
    assert result.raw_events == result.call_energy == [good]
    (record,) = load_task_records([tmp_path])
    assert (record.name, record.joules) == ("t", None)


def test_a_file_of_the_client_loads_and_what_is_no_number_is_absent(tmp_path: Path) -> None:
    result = load_result(written(tmp_path / "result_2.json", CLIENT))
    assert not result.is_measured
    assert result.computed_metrics.total_duration_seconds is None
    assert result.computed_metrics.llm_token_usage.total_prompt_tokens == 3
    assert result.computed_metrics.llm_token_usage.total_completion_tokens is None
    assert result.computed_metrics.tool_usage_stats.total_tool_calls is None
    assert result.gpu_hardware_metrics is not None
    assert (result.gpu_hardware_metrics.total_energy_joules, result.gpu_hardware_metrics.avg_power_w) == (44.0, None)
    assert len(result.raw_events) == 2


def test_calls_of_an_older_file_come_from_its_events() -> None:
    (call,) = result_from_json(CLIENT).calls
    assert (call.start, call.end, call.completion_tokens, call.status) == (1.5, 3.0, 8, "success")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not valid JSON"),
        (b'{"metadata": {', "not valid JSON"),
        (b"[1, 2]", "neither metadata nor raw_events"),
        (b'{"other": 1}', "neither metadata nor raw_events"),
        (b"\xff\xfe{", "UTF-16"),
        (b'{"metadata": "\xe9"}', "not UTF-8"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "result_3.json"
    path.write_bytes(content)
    with pytest.raises(UnreadableResult, match=why) as refused:
        load_result(path)
    assert str(path) in str(refused.value)


def test_a_directory_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="export the run first"):
        load_results([tmp_path])


def test_a_directory_is_read_in_order_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a"):
        body = {**OURS, "metadata": {**OURS["metadata"], "task_id": name}}
        written(tmp_path / f"result_{name}.json", body)
    (tmp_path / "result_c.json").symlink_to(tmp_path / "result_a.json")
    assert [result.key[1] for result in load_results([tmp_path])] == ["a", "b"]


def test_values_that_no_program_can_write_again_are_replaced(tmp_path: Path) -> None:
    path = written(
        tmp_path / "result_1.json",
        OURS
        | {"metadata": OURS["metadata"] | {"model_name": "half \ud83d", "session_end_unix": 10**400}}
        | {"measurement": {"joules": 12.5, "counter_resets": 10**30, "reasons": ["\ud83d"]}},
    )
    result = load_result(path)
    assert (result.metadata.model_name, result.metadata.session_end_unix) == ("half \ufffd", None)
    assert (result.measurement.joules, result.measurement.counter_resets) == (12.5, None)
    json.dumps(result.raw_events, allow_nan=False)
