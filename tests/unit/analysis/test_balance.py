"""Balance of several GPUs whose use the test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.bottlenecks.balance import Balance, balance_of_tasks
from tests.fakes.scripted_run import Scripted, write
from tests.unit.analysis.limited import Gpu, Turn, read, task

TEN = [Turn(prefill=1.0, decode=9.0)]


def found(directory: Path, *tasks: Scripted) -> Balance:
    (one,) = balance_of_tasks(read(directory, *tasks))
    return one


def test_even_work_has_no_imbalance(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", TEN, gpus=[Gpu(), Gpu()]))
    assert of.imbalance == 0.0
    assert of.tasks[0].idle_seconds == {"0": 0.0, "1": 0.0}
    assert of.findings == ()


def test_the_card_that_waits_is_found_with_its_seconds(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", TEN, gpus=[Gpu(util=90), Gpu(util=30)]), task("b", TEN, gpus=[Gpu(util=50), Gpu(util=50)]))
    assert of.tasks[0].imbalance == pytest.approx(0.5)
    assert of.tasks[0].idle_seconds == {"0": 0.0, "1": pytest.approx(6.0)}
    assert of.imbalance == pytest.approx(70 / 55 - 1)
    (finding,) = of.findings
    assert finding.kind == "GPU 1 waits for the others"
    assert finding.evidence == "idle beside a busy one for at least 6.0 of 20.0 s (30 %)"
    assert finding.tasks[0] == "a"


def test_a_card_without_work_is_called_that(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", TEN, gpus=[Gpu(util=90), Gpu(util=1, joules=540)]))
    (finding,) = of.findings
    assert finding.kind == "GPU 1 has no work"
    assert finding.evidence == "it was busy for 1 % of the time, and its 540 J are in those of the tasks"


def test_idle_beside_busy_is_never_more_than_it_was() -> None:
    """The bound against made-up seconds of two cards, whatever overlap they had."""
    for own in range(11):
        for other in range(own, 11):
            fewest_alone = other - own
            for together in range(max(0, own + other - 10), own + 1):
                assert fewest_alone <= other - together


def test_each_card_has_its_means_by_time_and_all_its_joules(tmp_path: Path) -> None:
    long = task("long", [Turn(prefill=0, decode=30.0)], gpus=[Gpu(util=100, watts=300, joules=9000, vram=1000), Gpu(vram=2000)])
    short = task("short", [Turn(prefill=0, decode=10.0)], gpus=[Gpu(util=20, watts=100, joules=1000, vram=4000), Gpu(vram=None)])
    first, second = found(tmp_path, long, short).cards
    assert (first.util, first.watts, first.joules, first.peak_vram_mib) == (80.0, 250.0, 10_000.0, 4000.0)
    assert second.peak_vram_mib == 2000.0


@pytest.mark.parametrize(
    "gpus", [[Gpu()], [], [Gpu(), Gpu(util=None)], [Gpu(util=1), Gpu(util=0)]], ids=["one", "none", "unknown", "at rest"]
)
def test_what_cannot_be_told_is_not(tmp_path: Path, gpus: list[Gpu]) -> None:
    of = found(tmp_path, task("a", TEN, gpus=gpus))
    assert of.tasks == ()
    assert of.findings == ()


def test_the_command_shows_each_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", [task("a", TEN, gpus=[Gpu(util=90), Gpu(util=30, watts=80)])])
    assert cli.main(["analyze", "balance", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "GPU 1 NVIDIA A10: 30 % busy, 80 W, 8192 MiB at most, 100.0 J" in shown
    assert "the busiest card works 50 % more than the mean" in shown
    assert cli.main(["analyze", "balance", str(tmp_path / "run"), "--format", "json"]) == 0


def test_bytes_over_links_are_summed_with_their_bounds(tmp_path: Path) -> None:
    counting = Gpu(links={("pcie", "tx"): (100.0, 90.0, 120.0), ("nvlink", "rx"): (8.0, 8.0, 8.0)})
    partly = Gpu(links={("pcie", "tx"): (50.0, 40.0, 60.0)})
    (of,) = balance_of_tasks(read(tmp_path, task("a", gpus=[counting, Gpu()]), task("b", gpus=[partly, Gpu()])))
    first, second = of.cards
    assert {name: (one.value, one.low, one.high) for name, one in first.links.items()} == {"pcie_tx": (150.0, 130.0, 180.0)}
    assert second.links == {}
