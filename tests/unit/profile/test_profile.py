"""Times by layer on a model whose times are known, names of the graphs of real models, and what is said of the result."""

from __future__ import annotations

import json

import pytest

from joulebench.errors import ModelError
from joulebench.profile.graph import ATTENTION, FEED_FORWARD, INPUT, LAYER, OUTPUT, Part, ends
from joulebench.profile.measure import Work, profile
from joulebench.profile.report import PhaseJoules, Profile
from tests.unit.profile.scripted import ASKING, HandClock, ScriptedModel, layered

WORK = Work(prompt_tokens=8, decode_tokens=4, repeat=2)


def profiled(work: Work = WORK, energy: dict[str, PhaseJoules] | None = None) -> Profile:
    clock = HandClock()
    model = ScriptedModel(clock, *layered(3, attention=0.006, feed_forward=0.002), after=0.0005)
    return Profile("m.gguf", "llama 1B Q4", 3, False, work, tuple(profile(model, work, clock)), energy or {})


def test_every_part_has_the_time_that_its_nodes_took() -> None:
    prefill, decode = profiled().phases
    for phase, tokens in ((prefill, 8), (decode, 1)):
        expected = {Part(None, INPUT): 0.001, Part(None, OUTPUT): 0.004}
        for layer in range(3):
            expected |= {Part(layer, ATTENTION): 0.006, Part(layer, FEED_FORWARD): 0.002}
        assert phase.parts == pytest.approx({part: seconds * tokens + ASKING for part, seconds in expected.items()})
        assert list(phase.parts) == [
            Part(None, INPUT),
            *(Part(n, k) for n in range(3) for k in (ATTENTION, FEED_FORWARD)),
            Part(None, OUTPUT),
        ]


def test_parts_add_up_to_the_total_but_for_what_comes_after_the_last_node() -> None:
    decode = profiled().phases[1]
    assert sum(decode.parts.values()) == pytest.approx(decode.seconds - 0.0005)
    assert decode.accounted == pytest.approx(1 - 0.0005 / decode.seconds)


def test_the_cost_of_measuring_is_that_of_the_waits() -> None:
    decode = profiled().phases[1]
    assert decode.plain_seconds == pytest.approx(0.0295)
    assert decode.seconds - decode.plain_seconds == pytest.approx(8 * ASKING)
    assert decode.overhead == pytest.approx((8 * ASKING / 0.0295,) * 3)


def test_both_kinds_take_turns_in_coming_first() -> None:
    clock = HandClock()
    model = ScriptedModel(clock, *layered(1, 0.001, 0.001))
    profile(model, WORK, clock)
    listing_and_warm_up, measured = model.evaluations[:3], model.evaluations[3:]
    assert listing_and_warm_up == [(True, 8), (True, 1), (False, 8)]
    assert [with_stopwatch for with_stopwatch, tokens in measured if tokens == 1] == [
        *(False, True, True, False) * 2,
        *(True, False, False, True) * 2,
    ]


def test_windows_hold_all_evaluations_of_their_phase() -> None:
    prefill, decode = profiled().phases
    assert len(prefill.windows) == len(decode.windows) == WORK.repeat
    assert sum(end - start for start, end in decode.windows) == pytest.approx(8 * (decode.seconds + decode.plain_seconds))


def test_a_graph_that_changes_is_an_error_and_no_number() -> None:
    clock = HandClock()
    names, seconds = layered(2, 0.001, 0.001)
    model = ScriptedModel(clock, names, seconds)
    lists = iter(range(100))

    def growing(node: int) -> str:
        if node == len(names) - 1 and next(lists) == 1:
            model.names.append("one_more")
            model.seconds.append(0.0)
        return names[node] if node < len(names) else "one_more"

    model.name_of = growing  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="changed while it was timed: 15 nodes, then 16"):
        profile(model, WORK, clock)


def test_a_graph_without_layers_is_an_error() -> None:
    clock = HandClock()
    with pytest.raises(ModelError, match="names no layer"):
        profile(ScriptedModel(clock, ["embd", "pooled"], [0.1, 0.1]), WORK, clock)


GEMMA = "embd inp_scaled norm-0 kqv_out-0 attn_post_norm-0 sa_out-0 norm-0 ffn_norm-0 ffn_out-0 norm l_out-0 norm result_output"
FALCON = "embd norm-0 attn_norm-0 kqv_out-0 attn_out-0 ffn_up-0 ffn_out-0 l_out-0 result_norm result_output"
MAMBA = "embd norm-0 conv-0 ssm-0 l_out-0 norm-1 conv-1 l_out-1 result_output"


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (GEMMA, {"inp_scaled": INPUT, "sa_out-0": ATTENTION, "l_out-0": FEED_FORWARD, "result_output": OUTPUT}),
        (FALCON, {"embd": INPUT, "attn_out-0": ATTENTION, "l_out-0": FEED_FORWARD, "result_output": OUTPUT}),
        (MAMBA, {"embd": INPUT, "l_out-0": LAYER, "l_out-1": LAYER, "result_output": OUTPUT}),
        ("embd pooled", {}),
    ],
    ids=["gemma", "no end of attention named", "no feed-forward", "no layer"],
)
def test_parts_end_where_the_names_say(graph: str, expected: dict[str, str]) -> None:
    names = graph.split()
    assert {names[position]: part.kind for position, part in ends(names).items()} == expected


def test_joules_follow_the_share_of_time() -> None:
    energy = {"prefill": PhaseJoules(40.0, 39.0, 41.0, "nvml"), "decode": PhaseJoules(None, None, None, "nvml")}
    data = json.loads(json.dumps(profiled(energy=energy).data()))
    prefill, decode = data["phases"]["prefill"], data["phases"]["decode"]
    assert prefill["joules"] == pytest.approx(10.0), "two repetitions, each with the stopwatch and without"
    assert prefill["joules_per_token"] == pytest.approx(10.0 / 8)
    assert sum(part["joules"] for part in prefill["parts"]) == pytest.approx(10.0 * prefill["accounted_ratio"])
    assert decode["joules"] is None
    assert {part["joules"] for part in decode["parts"]} == {None}
    assert sum(prefill["share_by_kind"].values()) == pytest.approx(prefill["accounted_ratio"])


def test_the_table_shows_layers_bars_and_what_measuring_cost() -> None:
    lines = list(profiled().lines())
    assert lines[0] == "m.gguf: llama 1B Q4, 3 layers, on the CPU"
    at = lines.index("decode: a token in 30.30 ms, mean of 8")
    assert lines[at + 1] == (
        "  measuring: 33.0 tokens/s with it, 33.9 without; it adds +2.7 % to the time (half of 8 pairs: +2.7 to +2.7)"
    )
    assert lines[at + 2] == "  parts add up to 98.3 % of the measured time"
    assert lines[at + 3] == "  input 3.6 %, attention 60.4 %, feed-forward 20.8 %, output 13.5 %"
    assert lines[at + 7] == "  layer 0      6100 us      2100 us      8200 us  27.1 %           ████████████████████████"
    assert lines[-1].startswith("   output")
    assert lines[-1].endswith("█" * 12)


def test_simulated_energy_is_named_before_the_numbers() -> None:
    shown = list(profiled(energy={"prefill": PhaseJoules(4.0, 4.0, 4.0, "simulated")}).lines())
    assert shown[1] == "The GPU is simulated: the joules below are no measurement."


def test_an_instrument_that_costs_much_warns_of_its_times() -> None:
    def warned(layers: int) -> bool:
        clock = HandClock()
        phases = profile(ScriptedModel(clock, *layered(layers, 0.0005, 0.0005)), Work(1, 1, 1), clock)
        of = Profile("m.gguf", "llama 1B Q4", layers, False, Work(1, 1, 1), tuple(phases), {})
        return any("believe the shares" in line for line in of.lines())

    assert not warned(1), "4 waits of 0.1 ms in 6 ms"
    assert warned(30), "62 waits in 35 ms"
