"""``joulebench profile`` on a real small model by a real llama.cpp: that parts add up, and that its refusals can be acted on.

No time is expected: the machine may be busy. What is timed is compared with what was timed around it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from tests.needs import need_model

pytestmark = pytest.mark.profile

SMALL = ("--prompt-tokens", "64", "--decode-tokens", "8", "--repeat", "2")


@pytest.fixture
def model() -> Path:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed; make test-profile installs it")
    return need_model()


def profiled(model: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert cli.main(["profile", str(model), "--format", "json", *SMALL, *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_parts_add_up_to_the_measured_total(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = profiled(model, capsys)
    assert found["layers"] == 30
    for phase in found["phases"].values():
        total = sum(part["seconds"] for part in phase["parts"])
        assert total == pytest.approx(phase["seconds"], rel=0.05)
        assert total <= phase["seconds"]
        assert phase["accounted_ratio"] == pytest.approx(total / phase["seconds"])
        assert sum(part["share"] for part in phase["parts"]) == pytest.approx(1.0, abs=0.05)


def test_every_layer_has_its_attention_and_its_feed_forward(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for phase in profiled(model, capsys)["phases"].values():
        parts = [(part["layer"], part["part"]) for part in phase["parts"]]
        of_layers = [(layer, kind) for layer in range(30) for kind in ("attention", "feed_forward")]
        assert parts == [(None, "input"), *of_layers, (None, "output")]
        assert all(part["seconds"] > 0 for part in phase["parts"])


def test_the_cost_of_measuring_is_told_in_both_forms(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = profiled(model, capsys)["phases"]["decode"]
    assert found["overhead_ratio_q1"] <= found["overhead_ratio"] <= found["overhead_ratio_q3"]
    assert found["plain_tokens_per_second"] == pytest.approx(1 / found["plain_seconds"])
    assert cli.main(["profile", str(model), *SMALL]) == 0
    shown = capsys.readouterr().out
    assert shown.count("measuring: ") == 2
    assert shown.count("tokens/s with it") == 2
    assert shown.count("layer 29") == 2


def test_without_an_exporter_there_are_times_and_no_joules(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", str(model), "--format", "json", "--exporter-url", "http://127.0.0.1:9", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert "no joules" in err
    assert json.loads(out)["phases"]["decode"]["joules"] is None


def test_a_file_that_is_cut_off_is_refused_in_the_words_of_llama_cpp(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.gguf"
    with model.open("rb") as whole:
        cut.write_bytes(whole.read(5_000_000))
    assert cli.main(["profile", str(cut)]) == 2
    said = capsys.readouterr().err
    assert "cut.gguf: llama.cpp cannot load it:" in said
    assert "it does not say why" not in said
