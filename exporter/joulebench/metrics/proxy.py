"""Scraped from the metering proxy. run_id and task_id are those that the client named, empty where it named none."""

from __future__ import annotations

from joulebench.metrics.label_sets import CONFIDENCE_BUCKETS, GPU, SECONDS_BUCKETS, TOKEN_GAP_BUCKETS, TOKEN_RATE_BUCKETS
from joulebench.metrics.metric import PREFIX, Kind, Metric

PROXY_TASK = ("run_id", "task_id", "model")
PROXY_RUN = ("run_id", "model")
"""Of histograms; only the runs that were used last have them."""
_COUNTER, _SUMMARY, _HISTOGRAM = Kind.COUNTER, Kind.SUMMARY, Kind.HISTOGRAM


def _proxy(
    kind: Kind,
    name: str,
    help_: str,
    labels: tuple[str, ...] = PROXY_TASK,
    buckets: tuple[float, ...] = (),
    *,
    unused_because: str = "",
) -> Metric:
    return Metric(f"{PREFIX}proxy_{name}", kind, help_, labels, buckets, unused_because)


PROXY_UPSTREAM_UP = _proxy(Kind.GAUGE, "upstream_up", "1 if the last request reached the model server, else 0.", ())
PROXY_IN_FLIGHT = _proxy(Kind.GAUGE, "requests_in_flight", "Metered requests in flight.", ("model",))
PROXY_REQUESTS = _proxy(
    _COUNTER,
    "requests_total",
    "Finished metered requests by result. refused: HTTP error of the model server; broken: the response failed midway;"
    " client_gone: the client closed the connection first; unreachable: no connection to the model server.",
    (*PROXY_TASK, "result"),
)
PROXY_TASK_START = _proxy(
    Kind.GAUGE,
    "task_start_timestamp_seconds",
    "Unix time at which the first request began that the other metrics of the task count; a proxy that counts a task anew has"
    " another one.",
)
PROXY_TASK_END = _proxy(
    Kind.GAUGE, "task_end_timestamp_seconds", "Unix time at which the latest finished request of the task ended."
)
PROXY_UNREAD_REQUESTS = _proxy(
    _COUNTER, "unread_requests_total", "Requests that were forwarded but not, or only partly, metered, by cause.", ("cause",)
)
PROXY_UNRECORDED_REQUESTS = _proxy(
    _COUNTER,
    "unrecorded_requests_total",
    "Requests that name a run and are not in its journal: its name cannot be that of a directory, there are more runs or tasks"
    " than the proxy records, or they could not be written.",
    (),
)
PROXY_JOURNAL_QUEUE = _proxy(
    Kind.GAUGE,
    "journal_queue_entries",
    "Requests and energies that wait to be written to the journals of their runs; grows while the disk does not answer.",
    (),
)
PROXY_UNWRITTEN_EVENTS = _proxy(
    Kind.GAUGE,
    "unwritten_events",
    "Events that the journals of their runs do not hold: they wait for a disk that is full, or are lost.",
    (),
)
PROXY_REFUSED_ADDITIONS = _proxy(
    _COUNTER,
    "refused_additions_total",
    "Requests that the model server refused with the proxy's additions and that were sent again without them.",
    ("model",),
)
PROXY_FORGOTTEN_TASKS = _proxy(
    _COUNTER, "forgotten_tasks_total", "Tasks whose series were dropped to bound their number, longest idle first.", ()
)
PROXY_REMOTE_REQUESTS = _proxy(
    _COUNTER,
    "remote_requests_total",
    "Requests whose model another host ran (Ollama cloud), so that they used no energy here.",
    unused_because="0 without models of another host; says why a task has no energy",
)
PROXY_REFUSED_DECREASES = _proxy(
    _COUNTER,
    "refused_decreases_total",
    "Attempts to add a negative or infinite value to a metric of the proxy, which were ignored, by metric.",
    ("metric",),
    unused_because="0 unless there is a bug; the log says which metric",
)
PROXY_PROMPT_TOKENS = _proxy(
    _COUNTER, "prompt_tokens_total", "Prompt tokens as the model server counted them, cached ones included."
)
PROXY_CACHED_TOKENS = _proxy(
    _COUNTER,
    "cached_prompt_tokens_total",
    "Prompt tokens served from the prefix cache; absent where the model server does not report them.",
)
PROXY_COMPLETION_TOKENS = _proxy(
    _COUNTER, "completion_tokens_total", "Completion tokens as the model server counted them, thinking included."
)
PROXY_TASK_DURATION = _proxy(_SUMMARY, "task_request_seconds", "Durations of answered requests.")
PROXY_TASK_TTFT = _proxy(_SUMMARY, "task_time_to_first_token_seconds", "Time to first token of streamed requests.")
PROXY_PREFILL = _proxy(_SUMMARY, "prefill_seconds", "Prefill time as the model server measured it.")
PROXY_PREFILL_TOKENS = _proxy(
    _COUNTER,
    "prefill_tokens_total",
    "Prompt tokens computed in joulebench_proxy_prefill_seconds; absent where the model server reports no cached tokens.",
)
PROXY_DECODE = _proxy(
    _SUMMARY, "decode_seconds", "Decode time as the model server measured it, else from the first to the last token."
)
PROXY_DECODE_TOKENS = _proxy(
    _COUNTER, "decode_tokens_total", "Completion tokens generated during joulebench_proxy_decode_seconds."
)
PROXY_LOAD = _proxy(_SUMMARY, "load_seconds", "Time for loading the model and waiting for the scheduler, as Ollama measured it.")
PROXY_OTHER_TIME = _proxy(
    _SUMMARY,
    "other_seconds",
    "Ollama's total less load, prefill and decode: waiting for a slot, and work that it does not time, such as logprobs.",
)
PROXY_TOOL_CALLS = _proxy(
    _COUNTER,
    "tool_calls_total",
    "Tool calls that the model attempted, by outcome; ok: declared, well-formed and valid by its schema. Results of tools are not"
    " visible to the proxy.",
    (*PROXY_TASK, "outcome"),
)
PROXY_TASK_CONFIDENCE = _proxy(
    _SUMMARY, "task_tool_confidence_ratio", "Confidences of the tool calls whose tokens were located in the logprobs."
)
PROXY_SPANS = _proxy(
    _COUNTER,
    "tool_call_spans_total",
    "Tool calls by whether their tokens were located in the logprobs.",
    ("model", "span_status"),
)
PROXY_ENERGY = _proxy(
    _COUNTER,
    "energy_joules_total",
    "Energy of the GPU while requests of the task ran, shared evenly with other requests of the same time, so that tasks"
    " add up to the energy used.",
    (*PROXY_TASK, *GPU),
)
PROXY_ENERGY_WHOLE = _proxy(
    _COUNTER,
    "energy_whole_joules_total",
    "All energy of the GPU while at least one request of the task ran: an upper bound of what the task used.",
    (*PROXY_TASK, *GPU),
)
PROXY_ENERGY_UNKNOWN = _proxy(
    _COUNTER, "energy_unknown_seconds_total", "Time with requests in flight for which the exporter returned no energy.", ()
)
PROXY_TTFT = _proxy(
    _HISTOGRAM, "time_to_first_token_seconds", "Time to first token of streamed requests.", PROXY_RUN, SECONDS_BUCKETS
)
PROXY_DURATION = _proxy(_HISTOGRAM, "request_duration_seconds", "Durations of answered requests.", PROXY_RUN, SECONDS_BUCKETS)
PROXY_TOKEN_GAP = _proxy(
    _HISTOGRAM, "inter_token_seconds", "Time between two chunks of a stream as they arrive.", PROXY_RUN, TOKEN_GAP_BUCKETS
)
PROXY_PREFILL_RATE = _proxy(
    _HISTOGRAM, "prefill_tokens_per_second", "Prefill speed of a request, without cached tokens.", ("model",), TOKEN_RATE_BUCKETS
)
PROXY_DECODE_RATE = _proxy(_HISTOGRAM, "decode_tokens_per_second", "Decode speed of a request.", ("model",), TOKEN_RATE_BUCKETS)
PROXY_CONFIDENCE = _proxy(
    _HISTOGRAM,
    "tool_call_confidence_ratio",
    "Confidence of tool calls whose tokens were located in the logprobs.",
    ("model",),
    CONFIDENCE_BUCKETS,
)
