"""Where time goes and what limits a model, on tasks whose waits, cards and sizes the test sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.bottlenecks.bottlenecks import Bottlenecks, ModelSizes, find_bottlenecks, waiting_of_task
from tests.fakes.scripted_run import Scripted, write
from tests.unit.analysis.limited import Gpu, Turn, read, task

MIB = 2**20


def found(directory: Path, *tasks: Scripted, known: ModelSizes | None = None) -> Bottlenecks:
    (one,) = find_bottlenecks(read(directory, *tasks), known)
    return one


def kinds(of: Bottlenecks) -> list[str]:
    return [finding.kind for finding in of.findings]


def test_shares_of_the_time_are_those_of_the_script(tmp_path: Path) -> None:
    one = task("a", [Turn(queue=1, load=2, prefill=3, decode=4)], tool=6, agent=4)
    two = task("b", [Turn(prefill=10, decode=10)])
    waiting = found(tmp_path, one, two).waiting
    assert waiting is not None
    assert waiting.total == 40.0
    assert waiting.seconds == {"tool": 6.0, "queue": 1.0, "agent": 4.0, "load": 2.0, "prefill": 13.0, "decode": 14.0}
    assert waiting.idle_share == pytest.approx(11 / 40)
    assert sum(waiting.share(kind) for kind in waiting.seconds) == pytest.approx(1.0)


def test_each_task_has_its_own_shares(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", tool=3.0), task("b", tool=0.0))
    assert {one.task: one.idle_share for one in of.tasks} == {"a": 0.5, "b": 0.0}
    assert of.tasks[0].shares == pytest.approx({"tool": 0.5, "prefill": 1 / 6, "decode": 1 / 3})


def test_queue_is_not_told_where_the_server_does_not_time_its_work(tmp_path: Path) -> None:
    (one,) = read(tmp_path, task("a", [Turn(queue=5.0)]))
    told = waiting_of_task(one)
    one.result.calls[0].prefill_seconds = None
    untold = waiting_of_task(one)
    assert told is not None
    assert untold is not None
    assert (told.seconds["queue"], "queue" in untold.seconds, untold.seconds["agent"]) == (5.0, False, 5.0)


def test_waiting_for_tools_is_a_finding_with_what_it_costs(tmp_path: Path) -> None:
    of = found(tmp_path, task("quick"), task("slow", tool=9.0, idle_watts=50.0), task("slower", tool=12.0, idle_watts=50.0))
    (finding,) = [one for one in of.findings if one.kind == "the GPU waits for tools"]
    assert finding.evidence == "70 % of the time of 3 tasks, 7.00 s of a task"
    assert finding.gain == "up to 7.00 s of a task", "idle power of one task is not known, so joules are not told"
    assert finding.tasks == ("slower", "slow", "quick")


def test_idle_joules_are_told_where_idle_power_is_known(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", tool=9.0, idle_watts=50.0), task("b", tool=3.0, idle_watts=50.0))
    assert of.findings[0].gain == "up to 6.00 s of a task, and the 300 J that the idle card takes meanwhile"


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (task("a", agent=5.0), "the GPU waits for the agent"),
        (task("a", [Turn(queue=1.0)]), "calls wait before the server works on them"),
        (task("a", [Turn(load=1.0)]), "the model is loaded again and again"),
        (task("a", gpus=[Gpu(util=20.0)]), "the GPU is little used"),
        (task("a", slowed={"sw_power_cap": 1.0}), "the power limit holds the clocks down"),
        (task("a", slowed={"hw_thermal": 0.5}), "heat or the power supply holds the clocks down"),
        (task("a", slowed={"other": 0.5}), "a reason without a name here holds the clocks down"),
        (task("a", gpus=[Gpu(vram=23.5 * 1024)]), "VRAM is nearly full"),
        (task("a", gpus=[Gpu(vram=8 * 1024)]), "VRAM is left"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_limit_is_found_where_it_is_and_not_elsewhere(tmp_path: Path, one: Scripted, kind: str) -> None:
    calm = task("a", [Turn(prefill=0.5, decode=4.5)], gpus=[Gpu(vram=18 * 1024)], slowed={"sw_power_cap": 0.1, "hw_thermal": 0.1})
    assert kind in kinds(found(tmp_path / "with", one))
    assert kind not in kinds(found(tmp_path / "without", calm))


def test_prompts_computed_again_are_found_by_the_tokens_of_the_call_before(tmp_path: Path) -> None:
    growing = [Turn(prompt=1000, reply=100, prefill=2.0), Turn(prompt=1200, reply=100, prefill=2.0)]
    of = found(tmp_path / "again", task("a", growing))
    (finding,) = [one for one in of.findings if one.kind == "prompts are computed again"]
    assert "50 % of the time, 50 % of its tokens at most" in finding.evidence
    assert finding.gain.startswith("up to 2.00 s of a task")
    cached = [growing[0], replace(growing[1], cached=1100)]
    assert "prompts are computed again" not in kinds(found(tmp_path / "cached", task("a", cached)))
    unknown = [replace(turn, cached=None) for turn in growing]
    assert "prompts are computed again" not in kinds(found(tmp_path / "unknown", task("a", unknown)))


def test_decode_is_held_against_the_roof_of_the_card(tmp_path: Path) -> None:
    """600 GB/s over 6 GB of weights is a roof of 100 tokens/s."""
    known = ModelSizes(weights={"model-a": 6e9})
    fast = found(tmp_path / "fast", task("a", [Turn(reply=160, decode=2.0)]), known=known)
    assert fast.decode is not None
    assert [fast.decode.tokens_per_second, fast.decode.share, fast.decode.ceiling] == pytest.approx([80.0, 0.8, 100.0])
    assert "decode is bound by memory bandwidth" in kinds(fast)
    slow = found(tmp_path / "slow", task("a", [Turn(reply=20, decode=2.0)]), known=known)
    assert "decode is far below what the memory allows" in kinds(slow)
    (finding,) = [one for one in slow.findings if one.kind.startswith("decode is far")]
    assert finding.gain == "up to 5.0 times the decode rate, if it came to half of the roof"


def test_without_the_size_of_the_weights_the_share_is_a_bound(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", [Turn(reply=120, decode=2.0)], gpus=[Gpu(vram=6e9 / MIB)]))
    assert of.decode is not None
    assert of.decode.at_most
    assert of.decode.ceiling is None
    assert of.decode.share == pytest.approx(0.6)
    assert "decode may be bound by memory bandwidth" in kinds(of)


@pytest.mark.parametrize(
    "one",
    [task("a", gpus=[Gpu(name="a card that nobody knows")]), task("a", simulated=True), task("a", gpus=[])],
    ids=["unknown card", "simulated", "no card"],
)
def test_of_a_card_that_is_not_known_nothing_is_told(tmp_path: Path, one: Scripted) -> None:
    of = found(tmp_path, one)
    assert of.decode is None
    assert of.memory == ()


def test_weights_that_do_not_fit_into_what_was_in_use_run_on_the_cpu(tmp_path: Path) -> None:
    half = task("a", gpus=[Gpu(vram=3e9 / MIB)])
    assert "layers run on the CPU" in kinds(found(tmp_path / "half", half, known=ModelSizes(weights={"model-a": 6e9})))
    assert "layers run on the CPU" not in kinds(found(tmp_path / "whole", half, known=ModelSizes(weights={"model-a": 2.5e9})))


def test_free_memory_is_told_in_tokens_where_their_size_is_known(tmp_path: Path) -> None:
    sizes = ModelSizes(cache_token={"model-a": 16 * 1024 * MIB / 100_000})
    of = found(tmp_path, task("a", gpus=[Gpu(vram=8 * 1024)]), known=sizes)
    assert of.memory[0].more_tokens == pytest.approx(100_000, abs=1)
    assert of.memory[0].free_share == pytest.approx(2 / 3)


def test_the_command_prints_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", [task("a", tool=9.0), task("b", tool=1.0, model="model-b", simulated=True)])
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"x" * 1000)
    flags = ["--weights", f"model-a={weights}", "--kv-token", "model-a=1024"]
    assert cli.main(["analyze", "bottlenecks", str(tmp_path / "run"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "    a: waited 75 % (tool 75 %, prefill 8 %, decode 17 %; utilization 80 %)" in shown
    assert "model-a: the GPU waits for tools" in shown
    assert "model-b\n  THE GPU WAS SIMULATED" in shown
    assert cli.main(["analyze", "bottlenecks", str(tmp_path / "run"), *flags, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in told] == ["model-a", "model-b"]
    assert told[0]["waiting"]["seconds"]["tool"] == 9.0


@pytest.mark.parametrize(
    "bad", [["--weights", "model-a"], ["--weights", "=3"], ["--weights", "m=-1"], ["--weights", "m=nan"], ["--kv-token", "m=x"]]
)
def test_a_size_that_is_none_is_refused(tmp_path: Path, bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", [task("a")])
    assert cli.main(["analyze", "bottlenecks", str(tmp_path / "run"), *bad]) == 2
    assert "is not MODEL=BYTES" in capsys.readouterr().err


def test_a_directory_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "bottlenecks", str(tmp_path)]) == 2
    assert "export the run first" in capsys.readouterr().err
    assert cli.main(["analyze", "balance", str(tmp_path / "none")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_a_card_that_is_not_used_does_not_make_the_other_look_idle(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", gpus=[Gpu(util=90), Gpu(util=0)]))
    assert of.tasks[0].util_percent == 90
    assert "the GPU is little used" not in kinds(of)


def test_calls_of_an_older_result_file_are_read_from_its_events(tmp_path: Path) -> None:
    whole = task("a", [Turn(prompt=700, queue=3.0)])
    ended = {"event_type": "LLM_QUERY_END", "timestamp": 1.0, **whole.extra["calls"][0]}
    older = replace(whole, extra={**whole.extra, "calls": None, "raw_events": [ended]})
    (one,) = read(tmp_path, older)
    assert [call.prompt_tokens for call in one.calls] == [700]
    waiting = waiting_of_task(one)
    assert waiting is not None
    assert waiting.seconds["queue"] == 3.0


@pytest.mark.parametrize("name", ["NVIDIA Thor", "NVIDIA Graphics Device"])
def test_checks_that_the_card_does_not_allow_are_skipped_with_their_reason(tmp_path: Path, name: str) -> None:
    bare = task("a", gpus=[Gpu(util=None, vram=None, name=name)])
    assert found(tmp_path / "bare", bare).skipped == (
        f"memory bandwidth: that of {name} is not known",
        f"VRAM: its size or use is not known of {name}",
        f"utilization: not known of {name}",
        f"heat: seconds of throttling are not known of {name}",
        f"power limit: the time at it is not known of {name}; it needs throttle reasons, the limit and power",
    )
    known = found(tmp_path / "known", task("a", slowed={"sw_power_cap": 1.0}), known=ModelSizes(weights={"model-a": 6e9}))
    assert known.skipped == (
        "heat: seconds of throttling are not known of NVIDIA A10",
        "clock at the power limit: not known of NVIDIA A10",
    )
    assert any("simulated" in each for each in found(tmp_path / "simulated", task("a", simulated=True)).skipped)
