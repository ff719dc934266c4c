"""Our own encoder against prometheus_client's: the same bytes for whatever is written, scrape after scrape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest

from joulebench import metrics
from joulebench.exporter import page
from joulebench.exporter.collector import Values
from joulebench.exporter.page import Memory, Page
from joulebench.metrics import Metric
from joulebench.metrics.metric import counter, gauge
from tests.unit.exporter.reference import reference

PLAIN = gauge("plain_watts", "No labels.")
ODD_HELP = gauge("odd_celsius", 'A "quoted" help, a \\ and\na second line.', ("b", "a"))
COUNTED = counter("counted_seconds_total", "A counter.", ("gpu", "uuid", "reason"))
METRICS = (PLAIN, ODD_HELP, COUNTED)

VALUES = (0.0, -0.0, 0, 1, True, -1.5, 1e6, 999999.0, 1234567.0, 1e16, 1e22, 1e-7, 5e-324, math.inf, -math.inf, math.nan)
TEXTS = ("", "0", "GPU-aaaa", 'a "b"', "back\\slash", "two\nlines", "ünïcödé €", "{}", "a,b=c", "\\n")


class Written:
    """A collector that writes the same samples at every scrape."""

    name = "written"
    metrics = METRICS

    def __init__(self, samples: Sequence[tuple[Metric, float | None, Sequence[str]]]) -> None:
        self.samples = samples

    def collect(self, sheet: Values) -> None:
        for metric, value, labels in self.samples:
            sheet.value(metric, value, labels)


def invented(random: Random) -> Written:
    samples: list[tuple[Metric, float | None, Sequence[str]]] = []
    for _ in range(random.randrange(60)):
        metric = random.choice(METRICS)
        wild = random.uniform(-1, 1) * 10.0 ** random.randrange(-12, 18)
        value = random.choice([None, random.choice(VALUES), wild, random.randrange(10**9)])
        samples.append((metric, value, [random.choice(TEXTS) for _ in metric.labels]))
    return Written(samples)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_whatever_is_written_comes_out_as_prometheus_client_prints_it(openmetrics: bool) -> None:
    random = Random(1)
    memory = Memory()
    for _ in range(300):
        written = invented(random)
        for names in (None, {COUNTED.name}, {PLAIN.name, ODD_HELP.name}, {"unknown"}):
            made = Page(memory, names)
            written.collect(made)
            expected = reference([written], names, openmetrics=openmetrics).removesuffix(b"# EOF\n")
            assert made.text(openmetrics=openmetrics).encode() == expected


def test_a_zero_that_changes_its_sign_is_rendered_anew() -> None:
    memory = Memory()
    shown = []
    for value in (0.0, -0.0, 0.0, 1.0, 1, True, 1.0):
        made = Page(memory)
        made.value(PLAIN, value)
        shown.append(made.text(openmetrics=False).split()[-1])
    assert shown == ["0.0", "-0.0", "0.0", "1.0", "1.0", "1.0", "1.0"]


def test_a_wrong_number_of_labels_and_a_histogram_are_mistakes() -> None:
    made = Page(Memory())
    with pytest.raises(ValueError, match="has labels"):
        made.value(COUNTED, 1.0, ("0",))
    with pytest.raises(ValueError, match="no histogram"):
        made.value(next(one for one in metrics.METRICS if one.buckets), 1.0)


def test_names_that_come_and_go_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_SERIES", 10)
    memory = Memory()
    for index in range(100):
        made = Page(memory)
        made.value(COUNTED, 5.0, ("0", "GPU", str(index)))
        assert made.text(openmetrics=False).endswith(f'{{gpu="0",reason="{index}",uuid="GPU"}} 5.0\n')
    assert len(memory.rendered[COUNTED.name].lines) <= 10
