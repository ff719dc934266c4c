"""The PromQL of the export. A wrong name never fails a query: it returns nothing, and a column is silently lost."""

from __future__ import annotations

import pytest

from joulebench import metrics
from joulebench.results import queries
from tests.goldens_support import Golden


def test_the_queries_are_what_they_were(golden: Golden) -> None:
    lines = ["# of a run, over ten minutes", *queries.of_run(600.0, "run-1"), "# around its tasks, an hour at a time"]
    lines += [queries.raw(metric, 3600.0, {}) for metric in queries.RAW_METRICS]
    lines += [
        queries.changed(metrics.GPU_THROTTLE_SECONDS, 3600.0, {}),
        queries.raw(metrics.GPU_THROTTLE_SECONDS, 3600.0, {}),
        queries.last(metrics.GPU_THROTTLE_SECONDS, 3600.0, {}),
        queries.changed(metrics.GPU_PROCESS_OWNER_START, 3600.0, {}),
        queries.last(metrics.GPU_PROCESS_OWNER_START, 3600.0, {}),
        queries.highest(metrics.GPU_PROCESS_OWNERS_DROPPED, 3600.0, {}),
        queries.last(metrics.GPU_MIG_INFO, 3600.0, {}),
        queries.last(metrics.GPU_INFO, 3600.0, {"instance": "127.0.0.1:18347"}),
        "# is it all there, and which runs are there",
        queries.oldest_energy_sample(),
        queries.runs(86400.0),
    ]
    golden("promql/queries.txt", "".join(f"{line}\n" for line in lines))


def test_no_query_may_depend_on_what_stores_answer_differently() -> None:
    texts = [*queries.of_run(600.0, "r"), *queries.of_proxied_run(600.0, "r"), queries.runs(60.0)]
    texts += [queries.raw(metric, 60.0, {}) for metric in queries.RAW_METRICS]
    for word in ("increase(", "rate(", " offset ", "__name__", " smoothed"):
        assert not [text for text in texts if word in text]


def test_data_cannot_end_a_string_literal() -> None:
    text = queries.last(metrics.TASK_START, 60.0, {"run_id": 'a"}) or vector(1) #\\\n'})
    assert text == 'last_over_time(joulebench_task_start_timestamp_seconds{run_id="a\\"}) or vector(1) #\\\\\\n"}[60001ms])'


def test_names_and_labels_come_from_the_declared_metrics() -> None:
    with pytest.raises(ValueError, match="has no label"):
        queries.selector(metrics.GPU_UP, {"colour": "red"})
    with pytest.raises(ValueError, match="has no series"):
        queries.selector(metrics.TASK_TTFT, {})
