"""What model servers export, one captured file for each version: the series that rules may read, with kinds and labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.contract.sources import ROOT

CAPTURES = sorted((ROOT / "tests/captures/model_servers").glob("*.prom"))


class Sample(NamedTuple):
    name: str
    kind: str
    labels: dict[str, str]
    value: float


def samples_of(text: str) -> list[Sample]:
    return [
        Sample(sample.name, family.type, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def captured(path: Path) -> list[Sample]:
    return samples_of(path.read_text(encoding="utf-8"))


SAMPLES = [sample for path in CAPTURES for sample in captured(path)]
LABELS: dict[str, set[str]] = {}
"""Labels by series, with those that a scrape adds, and the model, which the job gives where the server does not."""
for one in SAMPLES:
    LABELS.setdefault(one.name, {"job", "instance", "model"}).update(one.labels)
GROWING: set[str] = {sample.name for sample in SAMPLES if sample.kind in ("counter", "histogram")}
