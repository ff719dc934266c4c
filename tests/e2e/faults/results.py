"""What the fault tests look at: a scrape of an exporter by metric, and the exported row and file of a task."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from joulebench import cli
from joulebench.metrics import Metric


@dataclass(frozen=True)
class Scrape:
    """One answer of ``/metrics``."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, metric: Metric, **labels: object) -> float | None:
        """The one sample that carries these labels; None where there is none."""
        wanted = {(name, str(value)) for name, value in labels.items()}
        found = [value for (name, own), value in self.samples.items() if name == metric.name and own >= wanted]
        assert len(found) < 2, f"{metric.name} {labels}: {found}"
        return found[0] if found else None

    def label(self, metric: Metric, label: str, **labels: object) -> str:
        wanted = {(name, str(value)) for name, value in labels.items()}
        (own,) = (own for name, own in self.samples if name == metric.name and own >= wanted)
        return dict(own)[label]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def scrape(url: str) -> Scrape:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return Scrape({(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples})


@dataclass(frozen=True)
class TaskResult:
    """``row``: cells of results.csv as text; ``record``: the result file."""

    row: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def window(self) -> tuple[float, float]:
        metadata = self.record["metadata"]
        return metadata["session_start_unix"], metadata["session_end_unix"]

    @property
    def reasons(self) -> set[str]:
        """Of the row, which must be those of the file."""
        told = set(filter(None, self.row["reasons"].split(";")))
        assert told == set(self.record["measurement"]["reasons"])
        return told

    def cell(self, column: str) -> float | None:
        """A number of the row; None for an empty cell."""
        return float(self.row[column]) if self.row[column] else None

    def gpu(self, index: int) -> dict[str, Any]:
        (found,) = (one for one in self.record["per_gpu"] if one["gpu"] == str(index))
        return dict(found)

    def energy(self, index: int) -> dict[str, Any]:
        return dict(self.gpu(index)["energy"])


@dataclass(frozen=True)
class Results:
    """``run``: run.json; ``said``: what the export printed."""

    tasks: Mapping[str, TaskResult]
    run: Mapping[str, Any]
    said: str = field(repr=False)

    def __getitem__(self, task_id: str) -> TaskResult:
        return self.tasks[task_id]


def export(run_id: str, runs: Path, prometheus_url: str, *flags: str) -> Results:
    """``joulebench export`` in this process; it must end well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(["export", f"--run-id={run_id}", f"--runs-dir={runs}", f"--prometheus-url={prometheus_url}", *flags])
    assert code == 0, said.getvalue()
    with (runs / run_id / "results.csv").open(newline="") as file:
        rows = {row["task_id"]: row for row in csv.DictReader(file)}
    records = {task_id: json.loads((runs / run_id / row["result_file"]).read_text()) for task_id, row in rows.items()}
    tasks = {task_id: TaskResult(row, records[task_id]) for task_id, row in rows.items()}
    return Results(tasks, json.loads((runs / run_id / "run.json").read_text()), said.getvalue())
