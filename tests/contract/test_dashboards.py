"""Every dashboard is well formed, generated, readable and safe to provision; the rules are those that broke public boards."""

from __future__ import annotations

import itertools
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from operator import sub
from pathlib import Path
from typing import Any

import pytest
import yaml

from joulebench.metrics import PREFIX, Kind
from tests.contract.promql import read
from tests.contract.sources import DASHBOARDS, ROOT, loaded, metric_of
from tests.dashboard_queries import (
    EMPTY_WHEN_WELL,
    annotation_queries_of,
    panels_of,
    queries_of,
    substituted,
    variable_queries_of,
)

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
KNOWN_UNITS = {
    "none",
    "short",
    "s",
    "ops",
    "watt",
    "joule",
    "celsius",
    "bytes",
    "hertz",
    "percentunit",
    "suffix:tok/s",
    "watth",
    "time:MM-DD HH:mm:ss",
    "time:YYYY-MM-DD",
    f"currency{yaml.safe_load((ROOT / 'prometheus/prices.yml').read_text())['currency']}",
    "dateTimeAsIso",
    "dateTimeFromNow",
}
UNITS_BY_SUFFIX = {"_watts": {"watt", "percentunit"}, "_celsius": {"celsius"}, "_hertz": {"hertz", "percentunit"}}
GRAFANA_VARIABLES = {"__rate_interval", "__interval", "__range", "__from", "__to"}
COMMON_VARIABLES = ["datasource", "job", "instance", "run_id", "model", "gpu"]
OVER_HOURS = {"llm-cost", "llm-gpu", "llm-tasks"}
"""Boards of hardware and of long ranges, without a mark for each task."""
ONE_AT_A_TIME = {"api_model", "task_key", "task_id"}

boards = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def where(panel: dict[str, Any]) -> str:
    return f"panel {panel.get('title')!r}"


def everything(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def test_the_five_dashboards_are_there_with_at_least_ten_panels_each() -> None:
    counts = {path.stem: len([*panels_of(loaded(path))]) for path in DASHBOARDS}
    print(f"panels: {sum(counts.values())}, {counts}")  # noqa: T201
    assert [*counts] == ["llm-cost", "llm-gpu", "llm-live", "llm-task", "llm-tasks"]
    assert min(counts.values()) >= 10


LONGEST_QUERY = 600
MOST_PANELS = 120


def test_a_person_can_read_every_query_and_the_panels_are_few() -> None:
    queries = [
        (len(target["expr"]), where(panel))
        for path in DASHBOARDS
        for panel in panels_of(loaded(path))
        for target in panel["targets"]
    ]
    lengths = [length for length, _ in queries]
    panels = sum(len([*panels_of(loaded(path))]) for path in DASHBOARDS)
    print(f"{panels} panels, {len(queries)} queries: longest {max(queries)}, median {statistics.median(lengths):.0f} characters")  # noqa: T201
    assert max(lengths) <= LONGEST_QUERY
    assert panels <= MOST_PANELS


def test_sums_over_time_are_exact_differences() -> None:
    """``increase`` extrapolates to the edges of the range: 1.7 % too much in 92 s."""
    extrapolated = [
        f"{where(panel)}: {target['expr']}"
        for path in DASHBOARDS
        for panel in panels_of(loaded(path))
        for target in panel["targets"]
        if "increase(" in target["expr"]
    ]
    assert not extrapolated


def test_joules_and_costs_are_added_up_over_charges_only() -> None:
    """The energy of a task's window counts for each of several tasks at once: it is never in a sum of tasks."""
    windows = {"joulebench_task_energy_joules", "joulebench_task_energy_low_joules", "joulebench_task_energy_high_joules"}
    for path in DASHBOARDS:
        for panel in panels_of(loaded(path)):
            for target in panel["targets"]:
                names = {selection.name for selection in read(_filled(target["expr"])).selections}
                by_task = "by (run_id, task_id, worker)" in target["expr"] or 'task_id="$task_id"' in target["expr"]
                assert not names & windows or by_task, where(panel)


def test_the_files_are_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/build_dashboards.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_form_for_grafana_com_asks_for_its_data_source(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/build_dashboards.py"), "--grafana-com", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True)
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == sorted(path.name for path in DASHBOARDS)
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]["image"]
    for path in written:
        board = loaded(path)
        (asked,) = board["__inputs"]
        assert (asked["name"], asked["type"], asked["pluginId"]) == ("DS_PROMETHEUS", "datasource", "prometheus")
        (chosen,) = [variable["current"]["value"] for variable in board["templating"]["list"] if variable["type"] == "datasource"]
        assert chosen == "${DS_PROMETHEUS}"
        assert set(_datasource_uids(board)) == {"${datasource}", "-- Grafana --"}, "a data source of one installation"
        required = {(needed["type"], needed["id"]): needed["version"] for needed in board["__requires"]}
        assert required["grafana", "grafana"] == image.rpartition(":")[2]
        assert ("datasource", "prometheus") in required
        kinds = {panel["type"] for panel in panels_of(board)} - {"row"}
        assert {id_ for type_, id_ in required if type_ == "panel"} == kinds


def _datasource_uids(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "datasource" in part:
            yield part["datasource"]["uid"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _datasource_uids(inner)


@boards
def test_it_can_be_provisioned(path: Path) -> None:
    board = loaded(path)
    assert path.stem == board["uid"], "a file is named after its uid"
    assert board["id"] is None
    assert 39 <= board["schemaVersion"] <= 42, "classic model; file provisioning refuses v2"
    assert "elements" not in board
    assert board["editable"] is False
    assert board["graphTooltip"] == 1, "shared crosshair"
    assert board["tags"], "dashboards find each other by tag"


@boards
def test_panel_ids_are_there_and_unique(path: Path) -> None:
    ids = [panel.get("id") for panel in everything(loaded(path))]
    assert all(isinstance(number, int) and number > 0 for number in ids)
    assert len(ids) == len(set(ids))


@boards
def test_titles_are_unique(path: Path) -> None:
    titles = [panel["title"] for panel in everything(loaded(path))]
    assert len(titles) == len(set(titles)), [title for title in titles if titles.count(title) > 1]


@boards
def test_no_panel_leaves_the_grid_or_lies_on_another_even_with_all_rows_opened(path: Path) -> None:
    places = [(panel, panel["gridPos"]) for panel in everything(loaded(path))]
    for panel, place in places:
        assert place["w"] > 0, where(panel)
        assert place["h"] > 0, where(panel)
        assert place["x"] >= 0, where(panel)
        assert place["x"] + place["w"] <= 24, f"{where(panel)} leaves the grid"
    for (one, a), (other, b) in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, f"{where(one)} lies on {where(other)}"


@boards
def test_every_panel_says_what_it_shows_in_which_unit_and_from_which_metrics(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        assert panel["title"].strip(), panel["id"]
        assert len(panel["description"]) > 20, f"{where(panel)} needs a description"
        assert panel["fieldConfig"]["defaults"].get("unit") in KNOWN_UNITS, f"{where(panel)}: unknown unit"
        for override in panel["fieldConfig"]["overrides"]:
            units = {prop["value"] for prop in override["properties"] if prop["id"] == "unit"}
            assert units <= KNOWN_UNITS, f"{where(panel)}: {units}"
        named = set(re.findall(rf"`({PREFIX}\w+)`", panel["description"]))
        used = {token for target in panel["targets"] for token in re.findall(rf"\b{PREFIX}\w+", target["expr"])}
        assert named == used, f"{where(panel)}: its description must name the metrics it reads"


@boards
def test_a_panel_with_quantiles_says_how_far_off_its_buckets_let_them_be(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        exprs = [target["expr"] for target in panel["targets"] if "histogram_quantile" in target["expr"]]
        for name in {name for expr in exprs for name in re.findall(rf"\b({PREFIX}\w+)_bucket", expr)}:
            metric = metric_of(name)
            assert metric is not None
            bounds = metric.buckets
            error = max(b / a for a, b in itertools.pairwise(bounds)) if bounds[-1] > 1 else max(map(sub, bounds, (0.0, *bounds)))
            (claimed, *_) = re.findall(r"less than ([\d.]+) " + ("times" if bounds[-1] > 1 else "off"), panel["description"])
            assert float(claimed) >= error - 1e-9, f"{where(panel)}: {name}"


@boards
def test_the_unit_of_a_panel_agrees_with_that_of_a_metric_shown_as_it_is(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        shown = units_of(panel)
        for target in panel["targets"]:
            for selection in read(_filled(target["expr"])).selections:
                metric = metric_of(selection.name)
                if metric is None or metric.kind is not Kind.GAUGE or panel["type"] == "table":
                    continue
                for suffix, units in UNITS_BY_SUFFIX.items():
                    judged = metric.name.endswith(suffix) and f"{PREFIX}price_" not in target["expr"]
                    assert not judged or shown & units, f"{where(panel)} shows {metric.name} as {shown}"


def units_of(panel: dict[str, Any]) -> set[str]:
    """Units of a panel's fields, those of single ones too."""
    single = {p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"}
    return {panel["fieldConfig"]["defaults"]["unit"], *single}


def _filled(expr: str) -> str:
    return substituted(expr)


@boards
def test_panels_queries_and_variables_use_the_data_source_of_the_dashboard(path: Path) -> None:
    board = loaded(path)
    for panel in panels_of(board):
        assert panel["targets"], f"{where(panel)} asks nothing"
        assert panel["datasource"] == DATASOURCE, where(panel)
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE, where(panel)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["datasource"] == DATASOURCE, f"{variable['name']}: an object, a bare string gets lost"
    for mark in board["annotations"]["list"]:
        assert mark["datasource"] == DATASOURCE or mark.get("builtIn") == 1, mark["name"]


@boards
def test_ref_ids_are_unique_within_a_panel_and_formats_fit_it(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), where(panel)
        for target in panel["targets"]:
            assert target["instant"] != target["range"], where(panel)
            wanted = {"table": "table", "heatmap": "heatmap"}.get(panel["type"], "time_series")
            assert target["format"] == wanted, where(panel)
            assert panel["type"] not in ("timeseries", "state-timeline", "heatmap") or target["range"], where(panel)


@boards
def test_variables_are_those_that_the_dashboard_linter_asks_for(path: Path) -> None:
    variables = {variable["name"]: variable for variable in loaded(path)["templating"]["list"]}
    assert [name for name in variables if name in COMMON_VARIABLES] == COMMON_VARIABLES
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["label"] == "Data source"
    for name in ("job", "instance"):
        assert variables[name]["allValue"] == ".+"
        assert variables[name]["label"] == name.capitalize()
    for variable in variables.values():
        if variable["type"] == "query":
            single = variable["name"] in ONE_AT_A_TIME or (variable["name"] == "run_id" and path.stem == "llm-task")
            assert variable["multi"] is not single, variable["name"]
            assert variable["refresh"] == 2, f"{variable['name']}: read again when the time range changes"


@boards
def test_variables_list_only_values_of_our_own_series(path: Path) -> None:
    for name, selector, label in variable_queries_of(loaded(path)):
        for selection in read(selector).selections:
            assert metric_of(selection.name) is not None, name
            assert name == "job" or "job" in selection.labels, f"{name}: a bare label_values lists other people's series"
        assert label == name


@boards
def test_every_variable_in_a_query_exists(path: Path) -> None:
    board = loaded(path)
    known = {variable["name"] for variable in board["templating"]["list"]} | GRAFANA_VARIABLES
    for panel in panels_of(board):
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", target["expr"]))
            assert used <= known, f"{where(panel)}: {used - known}"


@boards
def test_every_selector_follows_the_job_variable(path: Path) -> None:
    for title, expr in [*queries_of(loaded(path)), *annotation_queries_of(loaded(path))]:
        for selection in read(expr).selections:
            if selection.name != "ALERTS":
                assert "job" in selection.labels, f"{title}: {selection.name} of every job there is"


@boards
def test_rates_use_the_rate_interval(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        for target in panel["targets"]:
            windows = re.findall(r"\b(?:rate|irate)\([^\[\]]*\[([^\]]+)\]", target["expr"])
            assert set(windows) <= {"$__rate_interval"}, f"{where(panel)}: {windows}"


@boards
def test_heatmaps_show_buckets_as_they_are(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        if panel["type"] == "heatmap":
            assert panel["options"]["calculate"] is False, where(panel)
            assert panel["options"]["filterValues"] == {"le": 1e-9}, where(panel)
            assert 30 <= panel["maxDataPoints"] <= 60, where(panel)
            assert [target["legendFormat"] for target in panel["targets"]] == ["{{le}}"], where(panel)


@boards
def test_state_timelines_carry_their_colours_in_mappings(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        if panel["type"] == "state-timeline":
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["color"] == {"mode": "fixed", "fixedColor": "text"}, where(panel)
            assert "thresholds" not in defaults, where(panel)
            assert defaults["mappings"], where(panel)


@boards
def test_links_into_a_time_window_use_raw_numbers_of_columns_that_are_there(path: Path) -> None:
    """Formatted values make no time ("1.80 Tri"), and a column that organize takes away cannot be linked to."""
    linked = 0
    for panel in panels_of(loaded(path)):
        for override in panel["fieldConfig"]["overrides"]:
            for prop in override["properties"]:
                for link in prop["value"] if prop["id"] == "links" else []:
                    linked += 1
                    _check_link(panel, link["url"])
    assert linked or path.stem == "llm-cost", "no table row leads to its time window"


def _check_link(panel: dict[str, Any], url: str) -> None:
    (organize,) = [step["options"] for step in panel["transformations"] if step["id"] == "organize"]
    shown = set(organize["renameByName"].values())
    gone = {field for field, dropped in organize["excludeByName"].items() if dropped}
    for field, raw in re.findall(r"\$\{__data\.fields\.(\w+)(\.numeric)?\}", url):
        assert field in shown - gone, f"{where(panel)} links to column {field}, which is not there"
        assert (field in ("From", "Until")) == bool(raw), f"{where(panel)}: {field}"
    names = {f"Value #{target['refId']}": target["expr"] for target in panel["targets"]}
    times = [names[field] for field, shown_as in organize["renameByName"].items() if shown_as in ("From", "Until")]
    assert all(expr.startswith("floor(1000 * ") for expr in times), f"{where(panel)}: fractions of a millisecond are no time"


@boards
def test_columns_hidden_from_view_are_hidden_for_old_and_new_grafana(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        for override in panel["fieldConfig"]["overrides"]:
            ids = {prop["id"] for prop in override["properties"]}
            assert ("custom.hidden" in ids) == ("custom.hideFrom" in ids), where(panel)


@boards
def test_rows_of_a_table_join_on_labels_that_all_its_queries_have(path: Path) -> None:
    for panel in panels_of(loaded(path)):
        if panel["type"] == "table" and len(panel["targets"]) > 1:
            fields = next(step["options"]["indexByName"] for step in panel["transformations"] if step["id"] == "organize")
            values = {field for field in fields if field.startswith("Value")}
            refs = {f"Value #{target['refId']}" for target in panel["targets"]}
            assert values <= refs, f"{where(panel)}: {values - refs} comes from no query"


@boards
def test_task_marks_stand_at_the_exact_time_and_alerts_are_marked(path: Path) -> None:
    marks = {mark["name"]: mark for mark in loaded(path)["annotations"]["list"]}
    assert marks["Alerts"]["expr"].startswith("ALERTS{")
    assert ("Task starts" in marks) == (path.stem not in OVER_HOURS)
    if path.stem in OVER_HOURS:
        return
    assert marks["Task starts"]["expr"].startswith("floor(")
    assert marks["Task starts"]["useValueForTime"] is True
    assert marks["Task starts"]["step"] == "1s", "Grafana's default step of 60 s hides short tasks"


def test_the_panels_that_may_be_empty_are_there() -> None:
    titles = {title for path in DASHBOARDS for title, _ in [*queries_of(loaded(path)), *annotation_queries_of(loaded(path))]}
    assert titles >= EMPTY_WHEN_WELL


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    """Otherwise $__rate_interval is a minute and short tasks are flat lines."""
    scraped = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    (source,) = loaded(ROOT / "dashboards/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["jsonData"]["timeInterval"] == scraped
    assert source["uid"] == "prometheus"
    assert source["editable"] is False


def test_provisioned_dashboards_cannot_be_edited_away() -> None:
    (provider,) = loaded(ROOT / "dashboards/provisioning/dashboards/joulebench.yml")["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
