"""The live dashboard's panels of the model server: vLLM, SGLang, llama.cpp or the proxy, under common names."""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query
from scripts.dashboards.panels import stat, timeseries
from scripts.dashboards.promql import served

NOTHING = "No data: no model server is scraped, and no proxy is used"
LEGEND = "{{server}} {{model}}"


def server_panels() -> list[Json]:
    quantiles = {"p50": "p50_5m", "p95": "p95_5m"}
    waits = {name: served(f"time_to_first_token_seconds:{quantile}") for name, quantile in quantiles.items()}
    gaps = {name: served(f"inter_token_seconds:{quantile}") for name, quantile in quantiles.items()}
    return [
        timeseries(
            "Server tokens per second",
            "Prompt tokens, cached ones included, and generated tokens per second over the last minute, of all its clients.",
            [
                Query(served("prompt_tokens:rate1m"), f"{LEGEND} prompt"),
                Query(served("completion_tokens:rate1m"), f"{LEGEND} generated"),
            ],
            "suffix:tok/s",
            empty=NOTHING,
        ),
        timeseries(
            "Server requests",
            "Requests that are worked on, and those in the server's queue. A queue that grows is time to first token that the"
            " model is not to blame for. The proxy does not see the queue.",
            [
                Query(served("running_requests:sum"), f"{LEGEND} running"),
                Query(served("waiting_requests:sum"), f"{LEGEND} waiting"),
            ],
            "none",
            empty=NOTHING,
        ),
        timeseries(
            "Server time to first token",
            "Median and 95th percentile over five minutes, by the server's own histogram, or the proxy's.",
            [Query(expr, f"{LEGEND} {name}") for name, expr in waits.items()],
            "s",
            empty=NOTHING,
        ),
        timeseries(
            "Server time between tokens",
            "Median and 95th percentile over five minutes. Rises with the number of requests in one batch and with their length.",
            [Query(expr, f"{LEGEND} {name}") for name, expr in gaps.items()],
            "s",
            empty=NOTHING,
        ),
        timeseries(
            "KV cache and prefix cache",
            "Share of the KV cache in use: near 100 % the server preempts requests or lets them wait. And the share of prompt"
            " tokens that its prefix cache held.",
            [
                Query(served("kv_cache:ratio"), f"{LEGEND} KV cache"),
                Query(served("cached_prompt_tokens:ratio1m"), f"{LEGEND} prompt tokens cached"),
            ],
            "percentunit",
            maximum=1,
            empty=NOTHING,
        ),
        stat(
            "Model servers",
            "Who tells the numbers of this row: model servers that Prometheus scrapes (prometheus/model_servers.yml), and the"
            " metering proxy for what stands behind it.",
            [Query(f"count by (server, model) ({served('running_requests:sum')})", LEGEND, "instant")],
            "none",
            text="name",
            empty=NOTHING,
        ),
    ]
