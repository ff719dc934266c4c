"""The file of ``--meters``: what it may hold, and messages that name the entry, the setting and what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from joulebench.errors import UserError
from joulebench.meters import INSIDE, SCOPES, is_disjoint, load_meters, parse_scopes
from tests.contract.sources import PACKAGE

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "prometheus" / "meters.yml"
CAPTURES = ROOT / "tests" / "captures" / "meters"

GOOD = "{name: a, query: x_total, kind: counter, unit: joules, scope: cpu, interval_seconds: 1, max_watts: 9}"


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "meters.yml"
    path.write_text(text, encoding="utf-8")
    load_meters(path)


def entry(**changes: object) -> str:
    values = {"name": "a", "query": "x", "kind": "gauge", "unit": "watts", "scope": "wall", "interval_seconds": 1, "max_watts": 9}
    settings = ", ".join(f"{name}: {value}" for name, value in {**values, **changes}.items() if value is not None)
    return f"meters: [{{{settings}}}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meters: [", "is not YAML"),
        ("a: 1", "has no list 'meters:'"),
        ("meters: {}", "has no list 'meters:'"),
        (f"meters: [{GOOD}]\ncolour: 1", "unknown key colour; known are meters and emissions"),
        (f"meters: [{GOOD}, {GOOD}]", "entry 2 (a): this name is there already"),
        ("meters: [3]", "entry 1: Expected `object`, got `int`"),
        (entry(name="Wall 1"), "name: expected `str` matching regex"),
        (entry(max_watts=None), "lacks the setting `max_watts`"),
        (entry(maxwatts=3), "there is no setting `maxwatts`"),
        (entry(interval_seconds="often"), "interval_seconds: expected `float`, got `str`"),
        (entry(scope="house"), "scope: invalid enum value 'house'"),
        (entry(unit="joules"), "a gauge is not in joules; its unit is one of milliwatts, watts, kilowatts"),
        (entry(kind="counter"), "a counter is not in watts"),
        (entry(min_watts=9), "min_watts 9 is not below max_watts 9"),
        (entry(wraps_at=5), "wraps_at is for counters"),
        (entry(host="a", hosts="{b: c}"), "give either it or hosts"),
        (entry(device_label="UUID"), "device_label is for meters of scope gpu or module, not wall"),
        (entry(query="'rate(x[5m])'"), "is no selector"),
        (entry(query="'x[5m]'"), "is no selector"),
        (entry(query='\'x{a="b"} or y{c="d"}\''), "is no selector"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, text)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"--meters {tmp_path / 'meters.yml'}: ")


WHERE = 'source: "a grid", date: 2026-10-01, of: gpu'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3]", "emissions: list; it holds carbon and water"),
        ("{methane: {}}", "emissions: unknown key methane; it holds carbon and water"),
        (f"{{carbon: {{{WHERE}}}}}", "carbon: give either grams_per_kwh, a number, or query"),
        (f"{{carbon: {{grams_per_kwh: 1, query: x, {WHERE}}}}}", "carbon: give either grams_per_kwh, a number, or query"),
        (f"{{water: {{grams_per_kwh: 1, {WHERE}}}}}", "water: there is no setting `grams_per_kwh`"),
        ("{carbon: {grams_per_kwh: 1, date: 2026-10-01, of: gpu}}", "carbon: lacks the setting `source`"),
        ('{carbon: {grams_per_kwh: 1, source: " ", date: 2026-10-01, of: gpu}}', "source: expected `str`"),
        ("{carbon: {grams_per_kwh: 1, source: a, of: gpu}}", "carbon: lacks the setting `date`"),
        ("{carbon: {grams_per_kwh: 1, source: a, date: autumn, of: gpu}}", "date: invalid"),
        ("{carbon: {grams_per_kwh: 1, source: a, date: 2026-10-01}}", "carbon: lacks the setting `of`"),
        ("{carbon: {grams_per_kwh: 1, source: a, date: 2026-10-01, of: wall}}", "of: no meter of the file measures wall"),
        ("{carbon: {grams_per_kwh: 1, source: a, date: 2026-10-01, of: plug}}", "of: 'plug' is no scope"),
        ("{carbon: {grams_per_kwh: 1, source: a, date: 2026-10-01, of: gpu+wall}}", "gpu is inside wall"),
        (f"{{carbon: {{grams_per_kwh: -1, {WHERE}}}}}", "grams_per_kwh: expected `float` >= 0"),
        (f"{{carbon: {{grams_per_kwh: 420000, {WHERE}}}}}", "grams_per_kwh: expected `float` <= 10000"),
        (f"{{carbon: {{grams_per_kwh: 1, interval_seconds: 5, {WHERE}}}}}", "interval_seconds is for a series"),
        (f"{{carbon: {{query: x, {WHERE}}}}}", "carbon: lacks the setting `interval_seconds`"),
        (f"{{carbon: {{query: 'avg(x)', interval_seconds: 5, {WHERE}}}}}", "query 'avg(x)' is no selector"),
    ],
)
def test_emissions_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, f"emissions: {text}")
    assert message in str(refused.value)


def test_a_file_may_have_emissions_alone_or_of_its_meters(tmp_path: Path) -> None:
    path = tmp_path / "meters.yml"
    path.write_text(f"emissions: {{water: {{litres_per_kwh: 2, {WHERE}}}}}", encoding="utf-8")
    loaded = load_meters(path)
    assert (loaded.meters, loaded.emissions["water"].constant, loaded.emissions["water"].of) == ((), 2.0, "gpu")
    path.write_text(
        f"meters: [{GOOD}]\nemissions: {{carbon: {{query: 'g{{zone=\"DE\"}}', interval_seconds: 300, source: grid, of: a}}}}",
        encoding="utf-8",
    )
    factor = load_meters(path).emissions["carbon"]
    assert (factor.constant, factor.query, factor.date, factor.of) == (None, 'g{zone="DE"}', None, "a")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_meters(tmp_path / "none.yml")


@pytest.mark.parametrize(
    "query", ["x", "job:x:rate", 'x{a="b"}', 'x{a=~"b|}",c!="\\"",}', '{__name__="x",instance!~"a"}', "x {}"]
)
def test_selectors_pass(tmp_path: Path, query: str) -> None:
    path = tmp_path / "meters.yml"
    path.write_text(entry(query="Q").replace("Q", "'" + query + "'"), encoding="utf-8")
    assert load_meters(path).meters[0].query == query


def test_scopes_inside_each_other_are_never_added() -> None:
    assert parse_scopes("wall") == ("wall",)
    assert parse_scopes("gpu + cpu+dram") == ("gpu", "cpu", "dram")
    for text, inner, outer in (("gpu+wall", "gpu", "wall"), ("host+module", "module", "host"), ("cpu+module", "cpu", "module")):
        with pytest.raises(UserError, match=f"{inner} is inside {outer}"):
            parse_scopes(text)
    with pytest.raises(UserError, match="'house' is no scope"):
        parse_scopes("gpu+house")
    assert set(INSIDE) == set(SCOPES)
    for scope, inside in INSIDE.items():
        # What is inside a part is inside the whole.
        assert all(INSIDE[part] <= inside for part in inside)
        assert all(not is_disjoint((scope, part)) for part in inside)


def samples_of_captures() -> dict[str, tuple[str, list[dict[str, str]]]]:
    """Name of a series -> (type of its family, labels of each)."""
    found: dict[str, tuple[str, list[dict[str, str]]]] = {}
    for path in CAPTURES.glob("*.prom"):
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                # The parser gives every counter the suffix that DCGM's do not have.
                for name in {sample.name, sample.name.removesuffix("_total")}:
                    found.setdefault(name, (family.type, []))[1].append(sample.labels)
    return found


def test_every_example_selects_series_that_its_exporter_shows() -> None:
    shown = samples_of_captures()
    for meter in load_meters(EXAMPLES).meters:
        kind, labels = shown[meter.query.partition("{")[0]]
        assert kind == meter.kind, meter.name
        for label in (meter.device_label, *((meter.host_label,) if meter.host_label != "instance" else ())):
            assert label is None or all(label in one for one in labels), meter.name


def test_the_examples_are_in_the_wheel() -> None:
    from joulebench.stack.data_files import data_names

    assert "prometheus/meters.yml" in list(data_names(PACKAGE.parent.parent))
