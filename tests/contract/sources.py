"""The documents that name metrics, and every PromQL expression in them with the place where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from joulebench.metrics import BY_NAME, BY_SERIES_NAME, Metric
from tests.dashboard_queries import annotation_queries_of, queries_of, variable_queries_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "exporter/joulebench"
RUNBOOK = ROOT / "prometheus/RUNBOOK.md"
DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))

METRIC_TOKEN = re.compile(r"\bjoulebench_[a-z0-9_]+")


@cache
def loaded(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def metric_of(series: str) -> Metric | None:
    return BY_SERIES_NAME.get(series) or BY_NAME.get(series)


def rules(kind: str) -> list[dict[str, Any]]:
    """``kind``: record or alert."""
    return [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"] if kind in rule]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        board = loaded(path)
        for title, expr in queries_of(board):
            yield f"{path.name}, panel {title!r}", expr
        for name, expr in annotation_queries_of(board):
            yield f"{path.name}, annotation {name!r}", expr
        for name, selector, _ in variable_queries_of(board):
            yield f"{path.name}, variable {name!r}", selector


def rule_expressions() -> Iterator[tuple[str, str]]:
    for kind in ("record", "alert"):
        for rule in rules(kind):
            yield f"rules, {rule[kind]}", rule["expr"]


def expressions() -> list[tuple[str, str]]:
    return [*dashboard_expressions(), *rule_expressions()]
