"""Layers on the CPU, queues by the server's own count and a power limit: figures that follow from what the test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench.analysis.bottlenecks.bottlenecks import Bottlenecks, ModelSizes, find_bottlenecks
from joulebench.analysis.bottlenecks.tasks import Finding
from tests.fakes.scripted_run import Scripted
from tests.unit.analysis.limited import Gpu, Turn, read, task

HALF = {"size_bytes": 12e9, "vram_bytes": 6e9, "offload_ratio": 0.5}


def found(directory: Path, *tasks: Scripted, known: ModelSizes | None = None) -> Bottlenecks:
    (one,) = find_bottlenecks(read(directory, *tasks), known)
    return one


def finding(of: Bottlenecks, kind: str) -> Finding:
    (one,) = [one for one in of.findings if one.kind == kind]
    return one


def kinds(of: Bottlenecks) -> list[str]:
    return [one.kind for one in of.findings]


def test_layers_on_the_cpu_take_the_time_in_which_no_kernel_runs(tmp_path: Path) -> None:
    """Ten seconds of model work and ten of a tool; the card is busy for 15 % of the twenty, so for 3 s with its half of the
    layers. With all of them it would be busy for 6 s: 4 s less than the ten."""
    one = task("a", [Turn(prefill=2.0, decode=8.0)], tool=10.0, gpus=[Gpu(util=15.0)], server=HALF)
    of = found(tmp_path, one)
    assert of.offload is not None
    assert (of.offload.cpu_share, of.offload.cpu_seconds, of.offload.gain_seconds) == pytest.approx((0.5, 7.0, 4.0))
    assert of.tasks[0].cpu_seconds == pytest.approx(7.0)
    told = finding(of, "layers run on the CPU")
    assert told.evidence.startswith("50 % of the model runs on the CPU by the server's own account: 6.0 of its 12.0 GB")
    assert told.gain.startswith("about 4.00 s of a task")


def test_no_gain_is_told_where_the_card_is_busy_all_the_time(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", [Turn(prefill=2.0, decode=8.0)], gpus=[Gpu(util=100.0)], server=HALF))
    assert of.offload is not None
    assert (of.offload.cpu_seconds, of.offload.gain_seconds) == (0.0, 0.0)


def test_without_utilization_the_share_stands_alone(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", gpus=[Gpu(util=None)], server=HALF))
    assert of.offload is not None
    assert (of.offload.cpu_share, of.offload.cpu_seconds, of.offload.gain_seconds) == (0.5, None, None)
    assert finding(of, "layers run on the CPU").gain == ""


@pytest.mark.parametrize("server", [{**HALF, "offload_ratio": 1.0, "vram_bytes": 12e9}, {}], ids=["whole", "not told"])
def test_a_model_on_the_card_is_no_finding(tmp_path: Path, server: dict[str, float]) -> None:
    assert "layers run on the CPU" not in kinds(found(tmp_path, task("a", server=server)))


def test_the_bandwidth_of_a_card_is_no_roof_for_layers_elsewhere(tmp_path: Path) -> None:
    known = ModelSizes(weights={"model-a": 12e9})
    assert found(tmp_path / "half", task("a", server=HALF), known=known).decode is None
    assert found(tmp_path / "whole", task("a"), known=known).decode is not None


def test_the_server_s_account_stands_above_the_size_of_the_file(tmp_path: Path) -> None:
    whole = {**HALF, "offload_ratio": 1.0}
    known = ModelSizes(weights={"model-a": 1e12})
    assert "layers run on the CPU" not in kinds(found(tmp_path / "told", task("a", server=whole), known=known))
    assert "layers run on the CPU" in kinds(found(tmp_path / "untold", task("a"), known=known))


def test_a_queue_that_the_server_counts_is_told_by_little_s_law(tmp_path: Path) -> None:
    """Three wait while one is worked on: three quarters of the time in the server."""
    one = task("a", server={"running_requests": 1.0, "waiting_requests": 3.0})
    of = found(tmp_path, one)
    assert of.tasks[0].queued_request_share == pytest.approx(0.75)
    assert finding(of, "calls wait before the server works on them").evidence.startswith("75 % of the time")
    calm = task("a", server={"running_requests": 1.0, "waiting_requests": 0.0})
    assert "calls wait before the server works on them" not in kinds(found(tmp_path / "calm", calm))
    assert found(tmp_path / "untold", task("a")).tasks[0].queued_request_share is None


def test_what_a_higher_power_limit_could_bring_has_bounds(tmp_path: Path) -> None:
    """Half of the time at the limit, and the clock at three quarters meanwhile."""
    one = task("a", [Turn(prefill=2, decode=8)], slowed={"sw_power_cap": 5.0}, gpus=[Gpu(capped_hz=1.5e9), Gpu(capped_hz=1.8e9)])
    of = found(tmp_path, one)
    assert of.power is not None
    assert (of.power.share, of.power.clock_ratio, of.power.most_seconds) == pytest.approx((0.5, 0.75, 1.25))
    told = finding(of, "the power limit holds the clocks down")
    assert told.gain.startswith("0 to 1.25 s of a task")
    assert "75 % of its highest" in told.evidence


def test_no_bound_is_told_where_no_clock_was_read(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", slowed={"sw_power_cap": 2.0}))
    assert finding(of, "the power limit holds the clocks down").gain == "not known: no clock was read at the limit"


def test_memory_is_told_of_any_card_that_tells_its_own(tmp_path: Path) -> None:
    """16 GiB of which 4 are in use; a context of 4,096 tokens in one GiB: 12 more of them."""
    server = {"context_tokens": 4096.0, "kv_cache_bytes": 2.0**30}
    of = found(tmp_path, task("a", gpus=[Gpu(name="a card nobody knows", vram=4096.0, memory=16 * 2.0**30)], server=server))
    (memory,) = of.memory
    assert (memory.total_gib, memory.peak_gib, memory.more_tokens, memory.more_slots) == (16.0, 4.0, 12 * 4096, 12)
    assert finding(of, "VRAM is left").gain.endswith("12 more slots of the context that is set now")


@pytest.mark.parametrize(
    ("server", "told"),
    [({"loads": 2.0}, "; 2 loads were seen"), ({"loads": 0.0}, "was its own queue"), ({}, " s of a task")],
    ids=["loaded", "queued", "not told"],
)
def test_loading_is_told_with_the_loads_that_were_seen(tmp_path: Path, server: dict[str, float], told: str) -> None:
    evidence = finding(
        found(tmp_path, task("a", [Turn(load=4.0)], server=server)), "the model is loaded again and again"
    ).evidence
    assert told in evidence
    assert evidence.endswith("of a task") is (not server)
