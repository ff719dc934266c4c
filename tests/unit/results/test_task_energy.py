"""Which of two readers is believed, and what is said when they differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from joulebench import metrics
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import WindowEnergy
from joulebench.results.fetch import GpuSamples, Samples
from joulebench.results.gpu_stats import GpuGroup
from joulebench.results.task import GpuJoules, Task, TaskKey, TaskValues, ValueDisagreement
from joulebench.results.task_energy import TaskEnergy, disagree, is_on_two_clocks
from joulebench.results.task_energy import task_energy as energy_by_readings
from joulebench.results.timeseries import TimeSeries

TASK = Task(TaskKey("t", "w"), TaskValues(start=10.1, end=20.1), {})


def gpu(watts: float = 100.0, uuid: str = "u", method: str = "counter", source: str = "nvml", until: float = 30.0) -> GpuSamples:
    trace = CounterTrace()
    for i in range(round(until * 4) + 1):
        trace.append(i * 0.25, watts * i * 0.25)
    return GpuSamples("0", uuid, trace.curve(), source=source, method=method, instances={"a:1"})


def task_energy(
    task: Task, samples: Samples | None, why: str = "prometheus_not_asked", own: Collection[str] | None = None
) -> TaskEnergy:
    """As the export does it, for one task."""
    if samples is None:
        return energy_by_readings(task, None, why, own)
    gpus = [gpu for gpu in samples.gpus if own is None or gpu.uuid in own]
    readings = GpuGroup(gpus).read_tasks([task], is_on_two_clocks).get(task.key)
    return energy_by_readings(task, readings.gpus if readings else [], why, own)


Pairs = list[tuple[float, float]]


def stored(*gpus: GpuSamples, offsets: Pairs | None = None, steps: Pairs | None = None) -> Samples:
    for one in gpus:
        one.clock_offsets, one.clock_steps = TimeSeries.of(offsets or []), TimeSeries.of(steps or [])
    return Samples(list(gpus))


def answered(joules: float | None, width: float | None = 5.0, **more: object) -> Task:
    """A task whose energy the exporter told."""
    low, high = (None, None) if joules is None or width is None else (joules - width, joules + width)
    values = {"method": "counter", "quality": "ok" if joules is not None else "missing", **more}
    return replace(TASK, exporter_energy=(GpuJoules("0", "u", joules, low, high, **values),), exporter_source="nvml")  # type: ignore[arg-type]


def test_prometheus_alone() -> None:
    found = task_energy(TASK, stored(gpu(), gpu(50.0, "v")))
    assert found.total.joules == pytest.approx(1500.0)
    assert (found.source, found.gpu_source, found.simulated, found.total.quality) == ("prometheus", "nvml", False, "ok")


def test_the_exporter_is_preferred_and_both_are_kept() -> None:
    found = task_energy(answered(1003.0), stored(gpu()))
    assert (found.total.joules, found.source, found.total.reasons) == (1003.0, "exporter", ())
    assert found.gpus[0].prometheus is not None
    assert found.gpus[0].prometheus.joules == pytest.approx(1000.0)
    assert found.total.longest_gap is None, "the exporter's answer does not say"
    assert found.gpus[0].prometheus.longest_gap == pytest.approx(0.25)


@pytest.mark.parametrize(("basis", "reasons"), [(None, ("devices_assumed",)), ("declared", ())])
def test_joules_read_back_without_a_verdict_are_suspect_where_only_one_gpu_worked(
    basis: str | None, reasons: tuple[str, ...]
) -> None:
    read_back = (GpuJoules("0", "u", 3000.0, 2990.0, 3010.0), GpuJoules("1", "v", 200.0, 199.0, 201.0))
    total = task_energy(replace(TASK, exporter_energy=read_back, device_basis=basis), None).total
    assert set(total.reasons) - {"prometheus_not_asked"} == set(reasons)
    assert total.quality == ("suspect" if reasons else "ok")
    judged = tuple(gpu._replace(quality="ok", method="counter") for gpu in read_back)
    assert task_energy(replace(TASK, exporter_energy=judged, device_basis="assumed"), None).total.quality == "ok"


def test_estimates_outside_each_others_bounds_are_told() -> None:
    found = task_energy(answered(1100.0), stored(gpu()))
    assert (found.total.joules, found.total.quality, found.total.reasons) == (1100.0, "suspect", ("energy_disagreement",))


@pytest.mark.parametrize("started", [11.4, 10.3])
def test_a_prometheus_that_began_late_does_not_contradict_a_whole_answer(started: float) -> None:
    late = gpu()
    trace = CounterTrace()
    for i in range(round(started * 4), 121):
        trace.append(i * 0.25, 25.0 * i)
    late.energy = trace.curve()
    found = task_energy(answered(1000.0, 2.0), stored(late))
    assert (found.total.joules, found.source, found.total.quality, found.total.reasons) == (1000.0, "exporter", "ok", ())
    alone = task_energy(TASK, stored(late)).total
    assert (alone.joules is None) is (started > 11), "a step that is missing at the edge is no more than that"
    assert alone.reasons == ("uncovered_start",)
    assert alone.high is None
    too_low = task_energy(answered(800.0, 2.0), stored(late))
    assert too_low.total.reasons == ("energy_disagreement",), "less than what a part took cannot be the whole"


def test_a_whole_window_is_preferred_to_a_part_and_more_of_it_to_less() -> None:
    torn = answered(980.0, reasons=("uncovered_end",), quality="suspect")
    torn = replace(torn, exporter_energy=(torn.exporter_energy[0]._replace(high=None),))
    assert task_energy(torn, stored(gpu())).source == "prometheus"
    assert task_energy(torn, None).total.joules == 980.0
    little = replace(torn, exporter_energy=(torn.exporter_energy[0]._replace(joules=None, low=100.0, quality="missing"),))
    more = task_energy(little, stored(gpu(until=18.0)))
    assert (more.source, more.total.joules, more.total.quality) == ("prometheus", None, "missing")
    assert more.total.low == pytest.approx(775.0)


def test_bounds_of_one_side_are_enough_to_contradict() -> None:
    whole = WindowEnergy(100.0, 95.0, 105.0, "counter", 9, None, 1.0, 0, "ok", ())
    part = replace(whole, joules=None, low=50.0, high=None, coverage=0.6, reasons=("uncovered_end",))
    assert [disagree(whole, part), disagree(part, whole)] == [False, False]
    assert [disagree(whole, replace(part, low=110.0)), disagree(replace(part, low=110.0), whole)] == [True, True]
    power = replace(whole, low=None, high=None, method="power_integration", joules=200.0)
    assert disagree(power, whole)
    half = replace(power, joules=80.0, coverage=0.5)
    assert not disagree(half, power)
    assert disagree(replace(half, joules=300.0), power)
    assert not disagree(replace(part, low=None), replace(part, low=None))


@pytest.mark.parametrize(
    ("joules", "width", "contradicts"), [(104.0, 20.0, False), (104.0, 1.0, True), (96.0, 20.0, False), (96.0, 1.0, True)]
)
def test_an_estimate_contradicts_nobody_by_more_than_its_own_bounds_allow(joules: float, width: float, contradicts: bool) -> None:
    """Prometheus scraped once a second beside an exporter that saw every change: it guesses at the edges, and says so."""
    fine = WindowEnergy(100.0, 98.0, 102.0, "counter", 90, None, 1.0, 0, "ok", ())
    coarse = replace(fine, joules=joules, low=joules - width, high=joules + width, samples=9)
    assert [disagree(fine, coarse), disagree(coarse, fine)] == [contradicts, contradicts]


def test_an_exporter_that_did_not_know_gives_way() -> None:
    found = task_energy(answered(None), stored(gpu()))
    assert (found.source, found.total.quality) == ("prometheus", "ok")
    assert found.total.joules == pytest.approx(1000.0)


def test_neither_knows() -> None:
    found = task_energy(answered(None, reasons=("uncovered_end",)), None)
    assert (found.total.joules, found.total.quality, found.total.reasons) == (
        None,
        "missing",
        ("uncovered_end", "prometheus_not_asked"),
    )
    nothing = task_energy(TASK, stored())
    assert (nothing.total.quality, nothing.total.reasons) == ("missing", ("no_gpu",))
    assert task_energy(TASK, None, "prometheus_failed").total.reasons == ("prometheus_failed",)


def test_one_unknown_gpu_makes_the_sum_unknown() -> None:
    found = task_energy(TASK, stored(gpu(), gpu(uuid="v", until=15.0)))
    assert (found.total.joules, found.total.high, found.total.quality) == (None, None, "missing")
    assert found.total.low == pytest.approx(1450.0, abs=60.0)


def test_the_exporters_gpus_are_the_benchmarks_gpus() -> None:
    other = gpu(700.0, "other machine")
    assert task_energy(answered(1000.0), stored(gpu(), other)).total.joules == 1000.0
    two = replace(gpu(uuid="v"), instances={"b:1"})
    assert "several_exporters" in task_energy(TASK, stored(gpu(), two)).total.reasons


def test_pushed_energy_without_a_verdict_is_judged_by_its_bounds() -> None:
    wide = task_energy(answered(100.0, 30.0, quality=None), None).total
    assert (wide.joules, wide.quality, wide.reasons) == (100.0, "short", ("short", "prometheus_not_asked"))
    assert task_energy(answered(100.0, 3.0, quality=None), None).total.quality == "ok"


@pytest.mark.parametrize(
    ("window", "reasons"),
    [
        ((None, 5.0), ("no_start",)),
        ((5.0, None), ("no_end",)),
        ((5.0, 4.0), ("ends_before_start", "clock_step")),
        ((None, None), ("no_end",)),
    ],
)
def test_without_a_window_there_is_no_energy(window: tuple[float | None, float | None], reasons: tuple[str, ...]) -> None:
    task = replace(TASK, values=TaskValues(start=window[0], end=window[1]))
    found = task_energy(task, stored(gpu()))
    assert (found.total.joules, found.total.quality, found.total.reasons) == (None, "missing", reasons)


def test_a_window_that_ends_inside_a_gap_is_compared_by_what_it_took_at_least() -> None:
    """Prometheus came back only after the task: how its long last step divides is a guess, no finding."""
    gap = gpu()
    trace = CounterTrace()
    for at, joules in ((8.0, 0.0), (8.25, 25.0), (8.5, 50.0), (12.0, 400.0), (12.25, 425.0), (26.0, 5000.0), (26.25, 5025.0)):
        trace.append(at, joules)
    gap.energy = trace.curve()
    found = task_energy(answered(1000.0), stored(gap))
    told = found.gpus[0].prometheus
    assert told is not None
    assert (found.total.joules, found.total.quality) == (1000.0, "ok")
    assert (told.reasons, told.joules is not None and told.joules > 1500.0) == (("gap", "short"), True)
    assert found.gpus[0].prometheus is not None
    assert found.gpus[0].prometheus.longest_gap == pytest.approx(13.75)
    assert "energy_disagreement" in task_energy(answered(20.0, 2.0), stored(gap)).total.reasons, (
        "less than the counter rose inside"
    )


def test_energy_without_statistics_says_why_and_is_no_worse_for_it() -> None:
    found = task_energy(answered(1000.0), None, "prometheus_failed").total
    assert (found.joules, found.quality, found.reasons) == (1000.0, "ok", ("prometheus_failed",))
    assert task_energy(answered(1000.0), stored(gpu(uuid="other"))).total.reasons == ("not_scraped",)


def test_gpus_of_other_machines_are_not_this_benchmarks() -> None:
    nowhere = task_energy(TASK, stored(gpu()), own=())
    assert (nowhere.total.joules, nowhere.total.reasons, nowhere.gpus) == (None, ("no_gpu",), ())
    assert [one.uuid for one in task_energy(TASK, stored(gpu(), gpu(uuid="v")), own={"v"}).gpus] == ["v"]


@pytest.mark.parametrize(("duration", "reasons"), [(10.0, ()), (9.8, ()), (5.0, ("clock_step",)), (15.0, ("clock_step",))])
def test_clocks_of_the_benchmark_that_part_within_a_task_are_told(duration: float, reasons: tuple[str, ...]) -> None:
    task = replace(TASK, values=replace(TASK.values, duration=duration))
    assert task_energy(task, stored(gpu())).total.reasons == reasons


def test_one_simulated_gpu_makes_the_task_simulated() -> None:
    found = task_energy(TASK, stored(gpu(), gpu(uuid="v", source="simulated")))
    assert (found.simulated, found.gpu_source) == (True, "simulated")


def test_clocks_that_differ_or_step_are_told() -> None:
    assert task_energy(replace(TASK, gateway_clock_offset=-0.4), stored(gpu())).total.reasons == ("clock_offset",)
    slow = [(12.0, 0.8), (13.0, 0.002), (90.0, 50.0)]
    assert task_energy(TASK, stored(gpu(), offsets=slow)).total.reasons == ()
    assert task_energy(TASK, stored(gpu(), offsets=[(12.0, -2.0), (13.0, -2.1)])).total.reasons == ("clock_offset",)
    assert task_energy(TASK, stored(gpu(), steps=[(12.0, 0.0), (13.0, 1.0)])).total.reasons == ("clock_step",)


def test_another_exporters_clock_is_no_finding() -> None:
    other = gpu(uuid="v")
    found = stored(gpu(), other)
    other.clock_offsets, other.clock_steps = TimeSeries.of([(12.0, -9.0)]), TimeSeries.of([(12.0, 0.0), (13.0, 1.0)])
    assert task_energy(TASK, found, own={"u"}).total.reasons == ()
    assert task_energy(TASK, found, own={"u", "v"}).total.reasons == ("clock_offset", "clock_step")


@pytest.mark.parametrize("jump", [5.0, -5.0])
def test_samples_on_two_clocks_say_nothing_of_a_window_unless_the_benchmarks_clock_went_along(jump: float) -> None:
    offsets, steps = [(12.0, 0.01), (13.0, jump)], [(12.0, 0.0), (13.0, 1.0)]
    apart = task_energy(TASK, stored(gpu(), offsets=offsets, steps=steps))
    assert (apart.total.joules, apart.total.low, apart.total.quality) == (None, None, "missing")
    assert apart.total.reasons == ("clock_step",)
    together = replace(TASK, values=replace(TASK.values, duration=10.0 - jump))
    assert task_energy(together, stored(gpu(), offsets=offsets, steps=steps)).total.joules is not None
    slow_scrape = task_energy(TASK, stored(gpu(), offsets=[(12.0, 0.01), (13.0, 0.85)], steps=steps))
    assert (slow_scrape.total.joules is None, slow_scrape.total.reasons) == (False, ("clock_step",))


def test_a_lost_gpu_and_disagreeing_sources_are_told() -> None:
    lost = gpu()
    lost.gauges[metrics.GPU_UP.name] = TimeSeries.of([(12.0, 1.0), (13.0, 0.0)])
    assert task_energy(TASK, stored(lost)).total.reasons == ("gpu_lost",)
    torn = replace(TASK, disagreements=(ValueDisagreement("llm_calls", 1, 2),))
    assert task_energy(torn, stored(gpu())).total.reasons == ("sources_disagree",)


def test_integrated_power_is_compared_by_share() -> None:
    power = gpu(method="power_integration")
    near, far = answered(1030.0, None, method="power_integration"), answered(1200.0, None, method="power_integration")
    assert task_energy(near, stored(power)).total.reasons == ()
    assert task_energy(far, stored(power)).total.reasons == ("energy_disagreement",)
    unknown = task_energy(answered(None), stored(power)).gpus[0]
    assert unknown.exporter is not None
    assert disagree(unknown.exporter, unknown.chosen) is False


@pytest.mark.parametrize(
    ("uses", "told"),
    [
        ([(12.0, 15.0)], True),
        ([(5.0, 8.0)], False),
        ([(9.0, 21.0)], True),
        ([(5.0, 10.2)], True),
        ([(20.0, 24.0)], True),
        ([(20.5, 24.0)], False),
        ([(2.0, 8.0), (12.0, 13.0)], True),
        ([(2.0, 8.0), (22.0, 23.0)], False),
    ],
)
def test_a_foreign_program_in_the_window_is_told(uses: list[tuple[float, float]], told: bool) -> None:
    """The exporter shows the last use at every scrape, from a look after its end until it sees the next."""
    shared = gpu()
    for metric, which in ((metrics.GPU_FOREIGN_USE_START, 0), (metrics.GPU_FOREIGN_USE, 1)):
        shown = [(float(at), [one for one in uses if one[1] + 3 <= at]) for at in range(40)]
        shared.gauges[metric.name] = TimeSeries.of((at, seen[-1][which]) for at, seen in shown if seen)
    found = task_energy(TASK, stored(shared)).total
    assert (("foreign_process" in found.reasons), found.quality) == (told, "suspect" if told else "ok")
    assert found.joules == pytest.approx(1000.0), "the joules are those of the card, whoever had them"
