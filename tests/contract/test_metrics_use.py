"""Dashboards, rules and runbook name only metrics and labels that are declared, and each metric is of use somewhere.

A renamed metric must fail here and not leave a blank panel behind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from joulebench import metrics
from joulebench.metrics import GROUP_LABELS, Kind
from tests.contract import model_servers
from tests.contract.promql import read, selections
from tests.contract.sources import (
    DASHBOARDS,
    METRIC_TOKEN,
    PACKAGE,
    ROOT,
    RULES,
    RUNBOOK,
    dashboard_expressions,
    expressions,
    metric_of,
    rules,
)

DOCUMENTS = [*DASHBOARDS, *RULES, RUNBOOK, ROOT / "prometheus/prometheus.yml", ROOT / "prometheus/alertmanager.yml"]

FOREIGN = {
    "up": {"job", "instance"},
    "push_time_seconds": {"job", *GROUP_LABELS},
    "push_failure_time_seconds": {"job", *GROUP_LABELS},
    "ALERTS": {"alertname", "alertstate", "severity", "job", "instance"},
    # Of kube-state-metrics.
    "kube_pod_info": {"uid", "namespace", "pod", "job", "instance"},
    **model_servers.LABELS,
}
"""Series that others make, with their labels."""

OF_SERVERS = "server:"
"""Recorded from model servers under names of their own: test_model_servers.py."""

GROWING = {"rate", "irate", "increase"}
COUNTER_FUNCTIONS = GROWING | {"last_over_time", "max_over_time", "min_over_time", "resets"}
"""Those over time read the total itself: exact where a counter's series begins at 0 with its group."""


def labels_of(series: str) -> set[str]:
    """Labels that a series may have, those of a recorded one by what it is made of."""
    if series in FOREIGN:
        return FOREIGN[series]
    metric = metric_of(series)
    if metric is not None:
        return {*metric.labels, "job", "instance", *GROUP_LABELS, *(("le",) if series.endswith("_bucket") else ())}
    found: set[str] = set()
    for rule in rules("record"):
        if rule["record"] == series:
            found |= {label for part in read(rule["expr"]).selections for label in labels_of(part.name)}
            found |= {*rule.get("labels", {})} | read(rule["expr"]).made
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_metric_that_a_document_names_exists(path: Path) -> None:
    unknown = sorted({name for name in METRIC_TOKEN.findall(path.read_text(encoding="utf-8")) if not is_known(name)})
    assert not unknown, f"{path.name} names {', '.join(unknown)}: not in joulebench.metrics. Renamed? Change it here too."


def is_known(token: str) -> bool:
    """A metric, a series of one, or the middle of a recorded name (level:metric:operation)."""
    return metric_of(token) is not None or any(token in rule["record"].split(":") for rule in rules("record"))


def test_the_middle_of_a_recorded_name_is_a_metric_without_its_counter_suffix() -> None:
    for rule in rules("record"):
        if rule["record"].startswith(OF_SERVERS):
            continue
        level, metric, operation = rule["record"].split(":")
        known = {name.removesuffix("_total").removesuffix("_bytes") for name in metrics.BY_NAME} | set(metrics.BY_NAME)
        assert level, rule["record"]
        assert operation, rule["record"]
        assert metric in known, f"{rule['record']}: no metric {metric}"


def test_every_selector_reads_a_known_series() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    unknown = {
        f"{selection.name} ({place})"
        for place, selection in selections(expressions())
        if selection.name not in metrics.BY_SERIES_NAME and selection.name not in recorded and selection.name not in FOREIGN
    }
    assert not unknown, f"no such series: {', '.join(sorted(unknown))}; summaries have _sum and _count, histograms _bucket too"


def test_every_recorded_series_is_read() -> None:
    read_names = {selection.name for _, selection in selections(expressions())}
    unread = {rule["record"] for rule in rules("record")} - read_names
    assert not unread, f"recorded but not read: {', '.join(sorted(unread))}; delete the rule"


def test_selectors_match_only_labels_that_the_series_has() -> None:
    wrong = [
        f"{place}: {selection.name} has no label {', '.join(sorted(unknown))}"
        for place, selection in selections(expressions())
        if (unknown := selection.labels - labels_of(selection.name))
    ]
    assert not wrong, "\n".join(wrong)


def test_grouping_and_joins_use_only_labels_that_some_series_of_the_expression_has() -> None:
    wrong = []
    for place, expr in expressions():
        reading = read(expr)
        known = reading.made | {label for selection in reading.selections for label in labels_of(selection.name)}
        if unknown := reading.grouping - known:
            wrong.append(f"{place}: {', '.join(sorted(unknown))}")
    assert not wrong, "labels that nothing has:\n" + "\n".join(wrong)


def test_rates_are_taken_of_counters_and_histograms_only() -> None:
    wrong = [
        f"{place}: {selection.function}({selection.name})"
        for place, selection in selections(expressions())
        if selection.function in GROWING and not grows(selection.name)
    ]
    assert not wrong, "no counter:\n" + "\n".join(wrong)


def grows(series: str) -> bool:
    metric = metric_of(series)
    return series in model_servers.GROWING if metric is None else metric.kind is not Kind.GAUGE


def test_counters_are_never_shown_bare_on_a_dashboard() -> None:
    """Their absolute value says little; exceptions: half of a difference (``offset``, ``@``), a ratio of totals."""
    ratio_of_totals = {metrics.TASK_DECODE_TOKENS.name}
    wrong = [
        f"{place}: {selection.name}"
        for place, selection in selections([*dashboard_expressions()])
        if (metric := metric_of(selection.name)) is not None
        and metric.kind is Kind.COUNTER
        and selection.function not in COUNTER_FUNCTIONS
        and not selection.elsewhen
        and not place.endswith("variable 'run_id'")
        and metric.name not in ratio_of_totals
    ]
    assert not wrong, "\n".join(wrong)


def test_the_energy_counter_is_read_from_one_job_only() -> None:
    """It is scraped twice; a dashboard that reads both doubles every joule."""
    fine = scraped_finely()
    doubled = [
        f"{place}: {expr}"
        for place, expr in dashboard_expressions()
        if any(selection.name in fine for selection in read(expr).selections) and 'job!="joulebench-energy"' not in expr
    ]
    assert not doubled, "\n".join(doubled)


def test_the_fine_scrape_asks_for_the_energy_counter_and_what_dates_it() -> None:
    wanted = {metrics.GPU_ENERGY, metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY}
    assert scraped_finely() == {metric.name for metric in wanted}


def scraped_finely() -> set[str]:
    config = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "joulebench-energy"]
    return set(job["params"]["name[]"])


def test_every_metric_is_of_use_somewhere_or_says_why_not() -> None:
    shown = {metric.name for _, selection in selections(expressions()) if (metric := metric_of(selection.name))}
    in_results = {getattr(metrics, name).name for name in metric_names_in_results()}
    unused = [metric.name for metric in metrics.METRICS if metric.name not in shown | in_results and not metric.unused_because]
    assert not unused, (
        f"{', '.join(unused)}: no dashboard, rule or result column reads this. Show it, read it in results/, or give"
        " unused_because in its declaration."
    )
    excused = [metric.name for metric in metrics.METRICS if metric.name in shown and metric.unused_because]
    assert not excused, f"{', '.join(excused)}: is used, take its unused_because away"


def metric_names_in_results() -> Iterator[str]:
    """Names of Metric objects that source files of results/ mention, imported or as an attribute."""
    for path in sorted((PACKAGE / "results").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if isinstance(getattr(metrics, name, None), metrics.Metric):
                yield name
