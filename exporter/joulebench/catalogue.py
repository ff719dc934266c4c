"""Every metric that Joulebench exports or pushes, declared once.

``METRICS.md``, the exposition, the PromQL of the export, the result columns and the checks on dashboards and rules all come
from this list; a name or label that is typed anywhere else is a failed contract test. Names end in their base unit, counters
in ``_total``; label sets are closed, and no label ever carries prompt, argument or token text.

A summary here has no quantiles: it is the pair ``NAME_sum`` and ``NAME_count``, both cumulative, so that a push that is lost
is repaired by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PREFIX = "joulebench_"


class Kind(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    SUMMARY = "summary"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``unused_because`` is given where no dashboard, rule or result column reads it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    unused_because: str = ""

    @property
    def series_names(self) -> tuple[str, ...]:
        """The names that stand in front of ``{`` on a scrape."""
        if self.kind is Kind.SUMMARY:
            return (f"{self.name}_count", f"{self.name}_sum")
        if self.kind is Kind.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)


def _gauge(name: str, help_: str, labels: tuple[str, ...] = (), unused_because: str = "") -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, help_, labels, unused_because=unused_because)


def _counter(name: str, help_: str, labels: tuple[str, ...] = (), unused_because: str = "") -> Metric:
    return Metric(PREFIX + name, Kind.COUNTER, help_, labels, unused_because=unused_because)


def _summary(name: str, help_: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(PREFIX + name, Kind.SUMMARY, help_, labels)


def _histogram(name: str, help_: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Metric:
    return Metric(PREFIX + name, Kind.HISTOGRAM, help_, labels, buckets)


GPU = ("gpu", "uuid")

THROTTLE_REASONS = ("sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake")
THERMAL_REASONS = ("sw_thermal", "hw_thermal")
CLOCK_DOMAINS = ("graphics", "sm", "memory")
TOOL_OUTCOMES = ("ok", "malformed", "undeclared", "schema_invalid", "tool_error")
TASK_STATUSES = ("success", "failure", "timeout", "error", "unknown")
PHASES = ("idle", "prefill", "decode", "tool")
API_TOKENS = ("prompt", "cached_prompt", "completion")
PROXY_RESULTS = ("ok", "refused", "broken", "client_gone", "unreachable")
PROXY_UNREAD_CAUSES = ("other_path", "too_large", "encoding", "not_json", "no_usage")
SPAN_STATUSES = ("ok", "partial", "not_found", "no_logprobs", "speculative")

SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 640.0)
TOKEN_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
TOKEN_RATE_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 1e5)
CONFIDENCE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

# --- GPU -------------------------------------------------------------------------------------------------------------

GPU_INFO = _gauge(
    "gpu_info",
    "1, with what the GPU is. source is nvml for a measured card and simulated for an invented one; energy_method is"
    " counter, power_integration or none.",
    (*GPU, "name", "architecture", "driver_version", "source", "energy_method"),
)
GPU_UP = _gauge("gpu_up", "1 while the GPU answers NVML, 0 once it is lost.", GPU)
GPU_UTILIZATION = _gauge(
    "gpu_utilization_ratio",
    "Share of the driver's last sample period with a kernel running (nvmlDeviceGetUtilizationRates).",
    GPU,
)
GPU_MEMORY_USED = _gauge("gpu_memory_used_bytes", "Device memory in use (nvmlDeviceGetMemoryInfo).", GPU)
GPU_MEMORY_TOTAL = _gauge("gpu_memory_total_bytes", "Device memory of the card (nvmlDeviceGetMemoryInfo).", GPU)
GPU_TEMPERATURE = _gauge("gpu_temperature_celsius", "Core temperature (nvmlDeviceGetTemperatureV).", GPU)
GPU_TEMPERATURE_MARGIN = _gauge(
    "gpu_temperature_margin_celsius",
    "Degrees left before the card slows itself down (nvmlDeviceGetMarginTemperature, else slowdown threshold minus temperature).",
    GPU,
)
GPU_POWER = _gauge(
    "gpu_power_watts",
    "Instant board power (NVML_FI_DEV_POWER_INSTANT, else nvmlDeviceGetPowerUsage, which averages over 1 s on Ampere and newer)."
    " For display; energy comes from the counter.",
    GPU,
)
GPU_POWER_LIMIT = _gauge("gpu_power_limit_watts", "Enforced power limit (nvmlDeviceGetEnforcedPowerLimit).", GPU)
GPU_CLOCK = _gauge("gpu_clock_hertz", "Current clock (nvmlDeviceGetClockInfo).", (*GPU, "clock"))
GPU_CLOCK_MAX = _gauge("gpu_clock_max_hertz", "Highest clock of the card (nvmlDeviceGetMaxClockInfo).", (*GPU, "clock"))
GPU_ENERGY = _counter(
    "gpu_energy_joules_total",
    "Energy since the driver was loaded (NVML_FI_DEV_ENERGY, else nvmlDeviceGetTotalEnergyConsumption, else instant power"
    " integrated at 50 Hz since the exporter started; energy_method of joulebench_gpu_info says which).",
    GPU,
)
GPU_ENERGY_SAMPLE_TIMESTAMP = _gauge(
    "gpu_energy_sample_timestamp_seconds",
    "When the energy counter last changed: the unix time that belongs to the value of joulebench_gpu_energy_joules_total.",
    GPU,
)
GPU_ENERGY_SAMPLE_UNCERTAINTY = _gauge(
    "gpu_energy_sample_uncertainty_seconds", "The true time of that change lies at most this far from the sample timestamp.", GPU
)
GPU_ENERGY_STEP = _gauge("gpu_energy_step_seconds", "Learned time between two changes of the energy counter.", GPU)
GPU_ENERGY_RESETS = _counter("gpu_energy_resets_total", "Times the energy counter fell since the exporter started.", GPU)
GPU_ENERGY_CROSSCHECK = _gauge(
    "gpu_energy_crosscheck_ratio",
    "Energy by the counter divided by integrated instant power over the start-up check; outside 0.9 to 1.1 one of them is wrong.",
    GPU,
)
GPU_THROTTLE_ACTIVE = _gauge(
    "gpu_throttle_active_ratio",
    "1 while the clock event reason is set, 0 while not (nvmlDeviceGetCurrentClocksEventReasons).",
    (*GPU, "reason"),
)
GPU_THROTTLE_SECONDS = _counter(
    "gpu_throttle_seconds_total",
    "Time the reason held clocks down: the driver's nanosecond counters where it has them, else event reasons at 50 Hz.",
    (*GPU, "reason"),
)
GPU_READ_ERRORS = _counter("gpu_read_errors_total", "NVML calls that failed, by group of calls.", (*GPU, "group"))

# --- exporter --------------------------------------------------------------------------------------------------------

EXPORTER_INFO = _gauge(
    "exporter_info", "1, with the exporter's version and its GPU source: nvml, simulated or none.", ("version", "gpu_source")
)
EXPORTER_CLOCK = _gauge("exporter_clock_timestamp_seconds", "The exporter's wall clock at the scrape; shows clock offset.")
EXPORTER_CLOCK_STEPS = _counter("exporter_clock_steps_total", "Times the wall clock jumped against the monotonic clock.")
COLLECTOR_SUCCESS = _gauge(
    "exporter_collector_success_ratio", "1 when the collector's last collection succeeded, else 0.", ("collector",)
)
COLLECTOR_DURATION = _gauge("exporter_collector_duration_seconds", "Time of the collector's last collection.", ("collector",))
METER_POLLS = _counter("exporter_energy_polls_total", "Polls of the 50 Hz energy thread, by GPU.", GPU)
METER_OVERRUNS = _counter(
    "exporter_energy_overruns_total",
    "Polls that took longer than the poll period, by GPU; energy edges are less exact around them.",
    GPU,
)

# --- Ollama ----------------------------------------------------------------------------------------------------------

OLLAMA_UP = _gauge("ollama_up", "1 while the Ollama API answers, else 0.")
OLLAMA_INFO = _gauge("ollama_info", "1, with the server's version (/api/version).", ("version",))
OLLAMA_MODELS_AVAILABLE = _gauge("ollama_models_available", "Models on disk (/api/tags).")
OLLAMA_MODELS_LOADED = _gauge("ollama_models_loaded", "Models in memory (/api/ps).")
OLLAMA_MODEL_INFO = _gauge(
    "ollama_model_info",
    "1 for each loaded model, with what it is (/api/ps details).",
    ("model", "family", "parameter_size", "quantization"),
)
OLLAMA_MODEL_SIZE = _gauge(
    "ollama_model_size_bytes", "Memory of a loaded model, CPU and GPU together (/api/ps size).", ("model",)
)
OLLAMA_MODEL_VRAM = _gauge("ollama_model_vram_bytes", "GPU memory of a loaded model (/api/ps size_vram).", ("model",))
OLLAMA_MODEL_OFFLOAD = _gauge(
    "ollama_model_offload_ratio",
    "Share of a loaded model that lies in GPU memory; below 1 some layers run on the CPU.",
    ("model",),
)
OLLAMA_MODEL_CONTEXT = _gauge(
    "ollama_model_context_tokens", "Context length of a loaded model (/api/ps context_length).", ("model",)
)
OLLAMA_MODEL_EXPIRES = _gauge(
    "ollama_model_expires_timestamp_seconds", "When a loaded model will be unloaded (/api/ps expires_at).", ("model",)
)
_NOT_SHOWN = "for whoever looks after the Ollama server; the dashboards show what a benchmark needs"
OLLAMA_MODEL_KV_CACHE = _gauge(
    "ollama_model_kv_cache_bytes",
    "KV cache of a loaded model at its whole context, estimated from the file's metadata (/api/show); absent where the layout is"
    " another than full or sliding-window attention.",
    ("model",),
    _NOT_SHOWN,
)
OLLAMA_MODEL_LOADS = _counter("ollama_model_loads_total", "Loads of the model that the exporter saw.", ("model",), _NOT_SHOWN)
OLLAMA_MODEL_UNLOADS = _counter("ollama_model_unloads_total", "Unloads of the model that it saw.", ("model",), _NOT_SHOWN)

# --- prices, from the file of --prices.file ----------------------------------------------------------------------------

PRICE_ELECTRICITY = _gauge(
    "price_electricity_per_joule",
    "Price of electricity by the price list; times 3.6 million it is the price per kWh.",
    ("currency",),
)
PRICE_HARDWARE = _gauge(
    "price_hardware_per_second", "What the machine costs by being there; absent where the price list does not say.", ("currency",)
)
PRICE_API = _gauge(
    "price_api_per_token",
    "What an API takes for one token, by kind of token; cached_prompt is absent where the price list gives none.",
    ("api_model", "token", "currency"),
)
PRICE_AS_OF = _gauge(
    "price_as_of_timestamp_seconds",
    "Day on which the price was last looked up; item is electricity, hardware or the API's model.",
    ("item",),
)

# --- run, pushed in the group {job, run_id, worker} ------------------------------------------------------------------

RUN_INFO = _gauge("run_info", "1 while the run is live, with its suite and the library's version.", ("suite", "version"))
RUN_TASKS = _counter("run_tasks_total", "Finished tasks of this worker, by status.", ("status",))
RUN_TASKS_PLANNED = _gauge("run_tasks_planned", "Tasks this worker means to run, where it knows.")
RUN_PHASE = _gauge("run_phase_ratio", "1 for the phase this worker is in and 0 for the others.", ("phase",))
CALL_TTFT = _histogram(
    "call_time_to_first_token_seconds", "Time to first token of streamed LLM calls.", ("model",), SECONDS_BUCKETS
)
CALL_DURATION = _histogram("call_duration_seconds", "Duration of LLM calls.", ("model",), SECONDS_BUCKETS)
TOOL_CONFIDENCE = _histogram(
    "tool_call_confidence_ratio",
    "Confidence of tool calls whose tokens were found: min(name_branch, args_min).",
    ("model",),
    CONFIDENCE_BUCKETS,
)
PUSH_FAILURES = _counter(
    "push_failures_total", "Pushes of this worker that the Pushgateway did not take; their state went with a later push."
)

# --- task, pushed in the group {job, run_id, task_id, worker} --------------------------------------------------------

TASK_INFO = _gauge("task_info", "1, with what the task is.", ("task_name", "model", "suite"))
TASK_START = _gauge("task_start_timestamp_seconds", "Unix time at which the task began.")
TASK_END = _gauge("task_end_timestamp_seconds", "Unix time at which the task ended; absent until then.")
TASK_RUN_EPOCH = _gauge("task_run_epoch_timestamp_seconds", "Whole unix second the offsets of this task count from.")
TASK_START_OFFSET = _gauge("task_start_offset_seconds", "Task begin after the epoch; keeps microseconds in stores of 12 digits.")
TASK_END_OFFSET = _gauge("task_end_offset_seconds", "Task end after the epoch; absent until then.")
TASK_DURATION = _gauge("task_duration_seconds", "Duration by the monotonic clock; absent until the end.")
TASK_SUCCESS = _gauge("task_success_ratio", "1 for a graded pass, 0 for a graded failure; absent without a verdict.")
TASK_STATUS = _gauge("task_status_info", "1, with how the task ended; absent until then.", ("status",))
TASK_SENT = _gauge(
    "task_sent_timestamp_seconds",
    "The benchmark's clock when it pushed; minus push_time_seconds this is the clock offset to the gateway.",
)
TASK_LLM_CALLS = _counter("task_llm_calls_total", "LLM calls begun.")
TASK_LLM_ERRORS = _counter("task_llm_errors_total", "LLM calls that failed.")
TASK_PROMPT_TOKENS = _counter("task_prompt_tokens_total", "Prompt tokens as the server counted them.")
TASK_COMPLETION_TOKENS = _counter(
    "task_completion_tokens_total", "Completion tokens as the server counted them, thinking included."
)
TASK_LLM_DURATION = _summary("task_llm_duration_seconds", "Durations of the LLM calls.")
TASK_TTFT = _summary("task_time_to_first_token_seconds", "Times to first token; only calls where the server streamed.")
TASK_PREFILL = _summary("task_prefill_seconds", "Prompt evaluation as the server timed it.")
TASK_DECODE = _summary("task_decode_seconds", "Token generation as the server timed it, else first to last token.")
TASK_DECODE_TOKENS = _counter(
    "task_decode_tokens_total", "Completion tokens of the calls that joulebench_task_decode_seconds times."
)
TASK_LOAD = _summary("task_load_seconds", "Model load and scheduler wait as the server timed it.")
TASK_TOOL_CALLS = _counter("task_tool_calls_total", "Tool calls the model tried, by outcome.", ("outcome",))
TASK_TOOL_DURATION = _summary("task_tool_duration_seconds", "Durations of the tool calls.")
TASK_CONFIDENCE = _summary("task_tool_confidence_ratio", "Confidences of the tool calls whose tokens were found.")
TASK_CONFIDENCE_MIN = _gauge("task_tool_confidence_min_ratio", "Lowest tool-call confidence; absent without one.")
TASK_CONFIDENCE_MAX = _gauge("task_tool_confidence_max_ratio", "Highest tool-call confidence; absent without one.")
TASK_ENERGY = _gauge(
    "task_energy_joules",
    "Energy over the task as the exporter's ring gives it; pushed a moment after the end, absent where not known.",
    GPU,
)
TASK_ENERGY_LOW = _gauge("task_energy_low_joules", "Lower bound of joulebench_task_energy_joules.", GPU)
TASK_ENERGY_HIGH = _gauge("task_energy_high_joules", "Upper bound of joulebench_task_energy_joules.", GPU)
TASK_CALL_ENERGY = _summary(
    "task_call_energy_joules", "Energy of all GPUs over single LLM calls; only calls whose energy is known on every GPU."
)

# --- metering proxy; run and task as the client named them, empty where it named none ---------------------------------

PROXY_TASK = ("run_id", "task_id", "model")
_IN_RULES = (
    *("prompt_tokens_total", "cached_prompt_tokens_total", "completion_tokens_total", "requests_in_flight"),
    *("time_to_first_token_seconds", "inter_token_seconds"),
)
_COUNTER, _SUMMARY, _HISTOGRAM = Kind.COUNTER, Kind.SUMMARY, Kind.HISTOGRAM


def _proxy(kind: Kind, name: str, help_: str, labels: tuple[str, ...] = PROXY_TASK, buckets: tuple[float, ...] = ()) -> Metric:
    why = "for whoever runs the proxy; the dashboards show what the benchmark itself pushes"
    return Metric(f"{PREFIX}proxy_{name}", kind, help_, labels, buckets, "" if name in _IN_RULES else why)


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

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
BY_SERIES_NAME: dict[str, Metric] = {series: metric for metric in METRICS for series in metric.series_names}

GROUP_LABELS = ("run_id", "task_id", "worker")
"""Labels that pushed series carry from the Pushgateway's grouping key, beside ``job``."""
