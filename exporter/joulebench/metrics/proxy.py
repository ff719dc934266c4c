"""The metering proxy's own scrape: run and task as the client named them, empty where it named none."""

from __future__ import annotations

from joulebench.metrics.label_sets import CONFIDENCE_BUCKETS, GPU, SECONDS_BUCKETS, TOKEN_GAP_BUCKETS, TOKEN_RATE_BUCKETS
from joulebench.metrics.metric import PREFIX, Kind, Metric

PROXY_TASK = ("run_id", "task_id", "model")
_COUNTER, _SUMMARY, _HISTOGRAM = Kind.COUNTER, Kind.SUMMARY, Kind.HISTOGRAM


def _proxy(kind: Kind, name: str, help_: str, labels: tuple[str, ...] = PROXY_TASK, buckets: tuple[float, ...] = ()) -> Metric:
    return Metric(f"{PREFIX}proxy_{name}", kind, help_, labels, buckets)


PROXY_UPSTREAM_UP = _proxy(Kind.GAUGE, "upstream_up", "1 if the last request reached the model server, 0 if it could not.", ())
PROXY_IN_FLIGHT = _proxy(Kind.GAUGE, "requests_in_flight", "Metered requests that are not answered to the end.", ("model",))
PROXY_REQUESTS = _proxy(
    _COUNTER,
    "requests_total",
    "Metered requests that are over. refused: an HTTP error of the model server; broken: it failed while it"
    " answered; client_gone: the client left first; unreachable: no connection.",
    (*PROXY_TASK, "result"),
)
PROXY_UNREAD_REQUESTS = _proxy(
    _COUNTER, "unread_requests_total", "Requests that were passed on but not, or not wholly, metered.", ("cause",)
)
PROXY_REFUSED_ADDITIONS = _proxy(
    _COUNTER, "refused_additions_total", "Requests whose additions the model server refused, sent again without.", ("model",)
)
PROXY_FORGOTTEN_TASKS = _proxy(
    _COUNTER, "forgotten_tasks_total", "Tasks whose series were dropped, longest idle first, to keep their number bounded.", ()
)
PROXY_PROMPT_TOKENS = _proxy(_COUNTER, "prompt_tokens_total", "Prompt tokens as the model server counted them.")
PROXY_CACHED_TOKENS = _proxy(
    _COUNTER, "cached_prompt_tokens_total", "Those found in the prefix cache; absent where the server does not say."
)
PROXY_COMPLETION_TOKENS = _proxy(
    _COUNTER, "completion_tokens_total", "Completion tokens as the model server counted them, thinking included."
)
PROXY_TASK_DURATION = _proxy(_SUMMARY, "task_request_seconds", "Durations of requests that were answered.")
PROXY_TASK_TTFT = _proxy(_SUMMARY, "task_time_to_first_token_seconds", "Times from request to first token, streamed.")
PROXY_PREFILL = _proxy(_SUMMARY, "prefill_seconds", "Prompt evaluation as the model server timed it.")
PROXY_PREFILL_TOKENS = _proxy(
    _COUNTER,
    "prefill_tokens_total",
    "Prompt tokens evaluated in that time; absent where the server does not tell which were cached (Ollama).",
)
PROXY_DECODE = _proxy(_SUMMARY, "decode_seconds", "Token generation as the model server timed it, else first to last token.")
PROXY_DECODE_TOKENS = _proxy(_COUNTER, "decode_tokens_total", "Completion tokens generated in that time.")
PROXY_LOAD = _proxy(_SUMMARY, "load_seconds", "Model load and scheduler wait as Ollama timed it.")
PROXY_QUEUE = _proxy(_SUMMARY, "queue_seconds", "Time that Ollama spent on neither load, prompt nor generation: its queue.")
PROXY_TOOL_CALLS = _proxy(
    _COUNTER,
    "tool_calls_total",
    "Tool calls the model tried, by outcome; ok: declared, well-formed and fitting its schema. What a tool answers is unseen.",
    (*PROXY_TASK, "outcome"),
)
PROXY_TASK_CONFIDENCE = _proxy(_SUMMARY, "task_tool_confidence_ratio", "Confidences of the tool calls whose tokens were found.")
PROXY_SPANS = _proxy(
    _COUNTER, "tool_call_spans_total", "Tool calls by what became of the search for their tokens.", ("model", "span_status")
)
PROXY_ENERGY = _proxy(
    _COUNTER,
    "energy_joules_total",
    "Energy while the task's requests ran, shared evenly with requests that ran at the same time: adds up to the GPU's own.",
    (*PROXY_TASK, *GPU),
)
PROXY_ENERGY_WHOLE = _proxy(
    _COUNTER,
    "energy_whole_joules_total",
    "All energy of the GPU while at least one of the task's requests ran: what the task used is not more.",
    (*PROXY_TASK, *GPU),
)
PROXY_ENERGY_UNKNOWN = _proxy(
    _COUNTER, "energy_unknown_seconds_total", "Time with requests for which the exporter gave no energy.", ()
)
PROXY_TTFT = _proxy(
    _HISTOGRAM, "time_to_first_token_seconds", "Times from request to first token, streamed.", ("model",), SECONDS_BUCKETS
)
PROXY_DURATION = _proxy(
    _HISTOGRAM, "request_duration_seconds", "Durations of requests that were answered.", ("model",), SECONDS_BUCKETS
)
PROXY_TOKEN_GAP = _proxy(
    _HISTOGRAM, "inter_token_seconds", "Time between two pieces of a stream as they arrive.", ("model",), TOKEN_GAP_BUCKETS
)
PROXY_PREFILL_RATE = _proxy(
    _HISTOGRAM, "prefill_tokens_per_second", "Speed of prompt evaluation, without cached tokens.", ("model",), TOKEN_RATE_BUCKETS
)
PROXY_DECODE_RATE = _proxy(_HISTOGRAM, "decode_tokens_per_second", "Speed of token generation.", ("model",), TOKEN_RATE_BUCKETS)
PROXY_CONFIDENCE = _proxy(
    _HISTOGRAM, "tool_call_confidence_ratio", "Confidence of calls whose tokens were found.", ("model",), CONFIDENCE_BUCKETS
)
