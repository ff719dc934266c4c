"""Samples read as columns are those that JSON holds, and a body of another form is refused or read as JSON, not guessed at."""

from __future__ import annotations

import json
import math

import pytest

from joulebench.clients import matrix
from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import PrometheusError

TRICKY = '"values":[[1,"2"]],\\ ]] "'


def answer(*series: tuple[dict[str, str], list[tuple[float, str]]], compact: bool = True, **more: object) -> bytes:
    rows = [{"metric": labels, "values": [[at, value] for at, value in points]} for labels, points in series]
    body = {"status": "success", **more, "data": {"resultType": "matrix", "result": rows}}
    return json.dumps(body, separators=(",", ":") if compact else None).encode()


def points(column: matrix.Column) -> list[tuple[float, float]]:
    return list(zip(column.at, column.value, strict=True))


def test_columns_are_what_json_says() -> None:
    one = ({"__name__": "a", "text": TRICKY}, [(1.5, "10"), (1764000000.123, "-2.5e-3"), (1764000001.0, "1")])
    two = ({"__name__": "b"}, [(7.0, "NaN"), (8.0, "+Inf"), (9.0, "-Inf")])
    rest, found = matrix.decode_matrix(answer(one, two, warnings=["partly"]))
    assert rest["warnings"] == ["partly"]
    assert [column.labels for column in found] == [one[0], two[0]]
    assert points(found[0]) == [(1.5, 10.0), (1764000000.123, -0.0025), (1764000001.0, 1.0)]
    assert math.isnan(found[1].value[0])
    assert list(found[1].value[1:]) == [math.inf, -math.inf]


def test_a_moment_that_comes_twice_counts_once() -> None:
    _, (column,) = matrix.decode_matrix(answer(({}, [(2.0, "20"), (1.0, "10"), (2.0, "21")])))
    assert points(column) == [(1.0, 10.0), (2.0, 21.0)]


@pytest.mark.parametrize("rows", ['[[1,"2","3"],[4,"5"]]', "[[1,2]]", '[["1","2"]]', '[[1,"2"],[3]]', '[1,"2"]'])
def test_rows_of_another_form_are_refused(rows: str) -> None:
    body = b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":%b}]}}' % rows.encode()
    with pytest.raises((ValueError, TypeError)):
        matrix.decode_matrix(body)


def test_no_series_is_an_answer_too() -> None:
    assert matrix.decode_matrix(answer())[1] == []


@pytest.mark.parametrize(
    "body",
    [
        answer(({}, [(1.0, "10")]), compact=False),
        answer(({}, [])) + b"   ",
        answer(({"x": "a"}, []), ({"x": "b"}, [(1.0, "10")])),
    ],
)
def test_another_form_is_read_as_json(body: bytes) -> None:
    found = PrometheusApi("http://127.0.0.1:9").columns(body, "up[1s]")
    expected = [(1.0, 10.0)] if b'"10"' in body else []
    assert [point for column in found for point in points(column)] == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"status":"error","error":"too many samples"}', "too many samples; the query was up"),
        (b"half a bo", "without valid JSON"),
        (answer(({}, [(1.0, "10")])).replace(b'"10"', b'"ten"'), "not an answer of the query API"),
        (answer(({}, [(1.0, "10")]))[:-4], "without valid JSON"),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, words: str) -> None:
    with pytest.raises(PrometheusError, match=words):
        PrometheusApi("http://127.0.0.1:9").columns(body, "up[1s]")


def test_warnings_are_kept() -> None:
    api = PrometheusApi("http://127.0.0.1:9")
    api.columns(answer(({}, [(1.0, "10")]), warnings=["partly"]), "up[1s]")
    assert list(api.warnings) == ["partly"]
