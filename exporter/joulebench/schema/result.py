"""The result file of a task: every field with its unit, meaning and source, named here and nowhere else.

None is unknown, and 0 is a measurement. Where the MCPWorld client has a key, it has the same name, unit and meaning here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec

from joulebench.schema.computed_metrics import ComputedMetrics
from joulebench.schema.fields import doc
from joulebench.schema.reasons import Reason
from joulebench.schema.record import Count, Number, Record, Text, Truth

SCHEMA_VERSION = 1
RESULT_PATTERN = "result_*.json"
CALLS_CSV_NAME = "calls.csv"
CSV_NAME = "results.csv"
RUN_FILE_NAME = "run.json"

Event: TypeAlias = dict[str, Any]
"""A journal event, as ``schema.events`` describes it."""

# --- metadata ---------------------------------------------------------------------------------------------------------------


class ApplicationInfo(Record):
    """The application that the task works in."""

    name: Annotated[Text, doc("", "Its name.")] = None


class TaskConfig(Record):
    """The client's ``task_config_at_start``, as far as it is read."""

    task_id: Annotated[Text, doc("", "The task, as the suite names it.")] = None
    task_name: Annotated[Text, doc("", "Name of the task.")] = None
    description: Annotated[Text, doc("", "What the task is, in words.")] = None
    application_info: Annotated[ApplicationInfo, doc("", "The application.")] = msgspec.field(default_factory=ApplicationInfo)
    total_key_steps: Annotated[Count, doc("steps", "Steps towards the goal that the grader counts.")] = None
    exec_mode: Annotated[Text, doc("", "How the agent acts: `mixed`, `gui` or `api`.")] = None


class Metadata(Record):
    """What the task is. From the journal, else from the labels of ``joulebench_task_info``."""

    run_id: Annotated[Text, doc("", "The run.")] = None
    task_id: Annotated[Text, doc("", "The task; `NAME#2` is its first repetition in the run.")] = None
    worker: Annotated[Text, doc("", "The worker that ran it; with run and task the key of a result.")] = None
    task_name: Annotated[Text, doc("", "Name of the task, equal over repetitions.")] = None
    suite: Annotated[Text, doc("", "The suite.")] = None
    model_name: Annotated[Text, doc("", "The model, as the benchmark names it.")] = None
    temperature: Annotated[Number, doc("", "Sampling temperature, as the benchmark set it.")] = None
    infrastructure_tag: Annotated[
        Text, doc("", "Name of the machine or its set-up, by `--infrastructure-tag` or `INFRASTRUCTURE_TAG`.")
    ] = None
    application: Annotated[Text, doc("", "The application that the task works in; else the suite.")] = None
    session_start_iso: Annotated[Text, doc("", "Start of the task in ISO 8601.")] = None
    session_start_unix: Annotated[Number, doc("unix s", "Start of the task, by the benchmark's wall clock.")] = None
    session_end_iso: Annotated[Text, doc("", "End of the task in ISO 8601.")] = None
    session_end_unix: Annotated[Number, doc("unix s", "End of the task, by the benchmark's wall clock.")] = None
    session_duration_seconds: Annotated[Number, doc("s", "End less start, to the millisecond.")] = None
    joulebench_version: Annotated[Text, doc("", "Version of Joulebench that wrote the file.")] = None
    benchmark_joulebench_version: Annotated[Text, doc("", "Version of Joulebench in the benchmark.")] = None
    benchmark_configuration: Annotated[
        dict[str, Any] | msgspec.UnsetType, doc("", "Settings of the benchmark, as it gave them to the run; absent without any.")
    ] = msgspec.UNSET
    task_config_at_start: Annotated[TaskConfig, doc("", "The task's configuration.")] = msgspec.field(default_factory=TaskConfig)


# --- gpu_hardware_metrics ---------------------------------------------------------------------------------------------------


class HardwareMetrics(Record):
    """All GPUs of the task as one: utilization is their mean, VRAM and power their sum, temperature their maximum.

    Halves and fifths are by time. VRAM is in MiB, as the names of the client have it.
    """

    avg_gpu_util_pct: Annotated[Number, doc("%", "Mean over the window of the mean over GPUs.")] = None
    max_gpu_util_pct: Annotated[Number, doc("%", "Highest sample of the mean over GPUs.")] = None
    min_gpu_util_pct: Annotated[Number, doc("%", "Lowest sample of the mean over GPUs.")] = None
    avg_vram_mb: Annotated[Number, doc("MiB", "Mean over the window of the memory in use, all GPUs.")] = None
    peak_vram_mb: Annotated[Number, doc("MiB", "Highest sample.")] = None
    min_vram_mb: Annotated[Number, doc("MiB", "Lowest sample.")] = None
    avg_temp_c: Annotated[Number, doc("°C", "Mean over the window of the hottest GPU.")] = None
    max_temp_c: Annotated[Number, doc("°C", "Highest sample of any GPU.")] = None
    avg_power_w: Annotated[Number, doc("W", "Joules over the window's length, else the mean of the power samples.")] = None
    max_power_w: Annotated[Number, doc("W", "Highest power sample of all GPUs together.")] = None
    total_energy_joules: Annotated[Number, doc("J", "As `measurement.joules`.")] = None
    total_energy_kwh: Annotated[Number, doc("kWh", "The same, to 8 decimals.")] = None
    energy_h1_joules: Annotated[Number, doc("J", "First half of the window, by the stored counter.")] = None
    energy_h2_joules: Annotated[Number, doc("J", "Second half.")] = None
    avg_power_h1_w: Annotated[Number, doc("W", "Mean power of the first half.")] = None
    avg_power_h2_w: Annotated[Number, doc("W", "Mean power of the second half.")] = None
    energy_rate_ratio_h2_h1: Annotated[Number, doc("ratio", "Power of the second half over that of the first.")] = None
    energy_q1_joules: Annotated[Number, doc("J", "First fifth of the window, by the stored counter.")] = None
    energy_q2_joules: Annotated[Number, doc("J", "Second fifth.")] = None
    energy_q3_joules: Annotated[Number, doc("J", "Third fifth.")] = None
    energy_q4_joules: Annotated[Number, doc("J", "Fourth fifth.")] = None
    energy_q5_joules: Annotated[Number, doc("J", "Last fifth.")] = None
    avg_power_q1_w: Annotated[Number, doc("W", "Mean power of the first fifth.")] = None
    avg_power_q2_w: Annotated[Number, doc("W", "Mean power of the second fifth.")] = None
    avg_power_q3_w: Annotated[Number, doc("W", "Mean power of the third fifth.")] = None
    avg_power_q4_w: Annotated[Number, doc("W", "Mean power of the fourth fifth.")] = None
    avg_power_q5_w: Annotated[Number, doc("W", "Mean power of the last fifth.")] = None
    energy_rate_ratio_q4_q2: Annotated[Number, doc("ratio", "Power of the fourth fifth over that of the second.")] = None
    avg_vram_h1_mb: Annotated[Number, doc("MiB", "Mean memory in use, first half.")] = None
    avg_vram_h2_mb: Annotated[Number, doc("MiB", "Mean memory in use, second half.")] = None
    vram_ratio_h2_h1: Annotated[Number, doc("ratio", "Memory of the second half over that of the first.")] = None
    avg_vram_q1_mb: Annotated[Number, doc("MiB", "Mean memory in use, first fifth.")] = None
    avg_vram_q2_mb: Annotated[Number, doc("MiB", "Mean memory in use, second fifth.")] = None
    avg_vram_q3_mb: Annotated[Number, doc("MiB", "Mean memory in use, third fifth.")] = None
    avg_vram_q4_mb: Annotated[Number, doc("MiB", "Mean memory in use, fourth fifth.")] = None
    avg_vram_q5_mb: Annotated[Number, doc("MiB", "Mean memory in use, last fifth.")] = None
    vram_ratio_q4_q2: Annotated[Number, doc("ratio", "Memory of the fourth fifth over that of the second.")] = None
    sample_count: Annotated[Count, doc("samples", "Power samples in the window.")] = None
    monitoring_duration_sec: Annotated[Number, doc("s", "Length of the window; null where nothing was measured.")] = None
    avg_container_cpu_pct: Annotated[Number, doc("%", "CPU of the model server's container, where a monitor log has it.")] = None
    max_container_cpu_pct: Annotated[Number, doc("%", "Highest sample of it.")] = None
    avg_container_mem_mb: Annotated[Number, doc("MiB", "Memory of the container, where a monitor log has it.")] = None
    peak_container_mem_mb: Annotated[Number, doc("MiB", "Highest sample of it.")] = None


# --- measurement ------------------------------------------------------------------------------------------------------------


class JouleBounds(Record):
    """One reader's energy of a window."""

    joules: Annotated[Number, doc("J", "Best estimate.")] = None
    low: Annotated[Number, doc("J", "Lower bound.")] = None
    high: Annotated[Number, doc("J", "Upper bound.")] = None


class ClockOffsets(Record):
    """Differences of clocks around the task."""

    benchmark_to_gateway: Annotated[
        Number, doc("s", "Benchmark's clock less the Pushgateway's at the last push; a push takes a few ms.")
    ] = None
    exporter_to_prometheus: Annotated[Number, doc("s", "Exporter's clock less Prometheus's, the smallest around the window.")] = (
        None
    )


class Disagreement(Record):
    """A value of which journal and pushed metrics differ; the journal's is used, unless it lost its end."""

    field: Annotated[str, doc("", "The value.")] = ""
    journal: Annotated[Any, doc("", "As the journal has it.")] = None
    prometheus: Annotated[Any, doc("", "As it was pushed.")] = None


class WindowMeasurement(Record):
    """The energy of a window, with how good it is."""

    joules: Annotated[Number, doc("J", "Best estimate; null where the window is only known in part.")] = None
    kwh: Annotated[Number, doc("kWh", "The same.")] = None
    low_joules: Annotated[
        Number, doc("J", "Lower bound that the counter guarantees, if its sensor does not lag; of a part, what it took at least.")
    ] = None
    high_joules: Annotated[Number, doc("J", "Upper bound that the counter guarantees, if its sensor does not lag.")] = None
    method: Annotated[Text, doc("", "`counter`, `integrated` power, `mixed` over GPUs, or `none`.")] = None
    coverage: Annotated[Number, doc("ratio", "Share of the window between known counter values.")] = None
    samples: Annotated[Count, doc("samples", "Counter changes in the window.")] = None
    longest_gap_seconds: Annotated[Number, doc("s", "Longest time between two changes that touch the window.")] = None
    counter_resets: Annotated[Count, doc("resets", "Times the counter began anew in the window.")] = None
    quality: Annotated[Text, doc("", "`ok`, `short`, `suspect` or `missing`; see the reasons.")] = None
    reasons: Annotated[list[str], doc("", "Why the quality is what it is.")] = msgspec.field(default_factory=list)


class DeviceRecord(Record):
    """A GPU, or a MIG instance of it, that the task is charged for."""

    host: Annotated[Text, doc("", "Address of its exporter.")] = None
    gpu: Annotated[Text, doc("", "Index on its host.")] = None
    uuid: Annotated[Text, doc("", "UUID.")] = None
    share: Annotated[
        Number, doc("ratio", "The part of a GPU that several servers used, by SM time; of a MIG instance, its part of the GPU.")
    ] = None
    parent: Annotated[Text, doc("", "UUID of the GPU that a MIG instance is a part of.")] = None
    role: Annotated[Text, doc("", "`prefill` or `decode` where it was declared.")] = None
    clock_offset_seconds: Annotated[
        Number,
        doc("s", "The clock of its host minus that of the benchmark, by which its window was shifted; null where it was not."),
    ] = None
    clock_uncertainty_seconds: Annotated[
        Number, doc("s", "The most by which that offset may be wrong; the bounds hold for all of it.")
    ] = None
    sensor_lag_seconds: Annotated[
        Number,
        doc(
            "s", "How late its counter shows energy, as learned from the calls of the run and corrected; null where no lag shows."
        ),
    ] = None

    @property
    def label(self) -> str:
        return f"{self.host}/{self.uuid}" if self.host else str(self.uuid)


class Measurement(WindowMeasurement):
    """The energy of the task over all of its GPUs, not reduced where tasks overlap: that is ``attribution``."""

    energy_source: Annotated[Text, doc("", "`exporter`, `prometheus`, `mixed`, or another telemetry of a backfilled file.")] = (
        None
    )
    gpu_source: Annotated[Text, doc("", "`nvml`, `amd` or `simulated`.")] = None
    simulated: Annotated[Truth, doc("", "Whether any of the joules come from a simulated GPU.")] = None
    device_basis: Annotated[
        Text, doc("", "How the devices are known: `declared`, `observed` (used by the model server) or `assumed` (all).")
    ] = None
    devices: Annotated[list[DeviceRecord], doc("", "The devices that the task is charged for.")] = msgspec.field(
        default_factory=list
    )
    joules_by_role: Annotated[
        dict[str, Number], doc("J", "By declared role of the devices, `prefill` or `decode`; empty where none was declared.")
    ] = msgspec.field(default_factory=dict)
    missing_hosts: Annotated[list[str], doc("", "Exporters that should be part of the total and did not answer.")] = (
        msgspec.field(default_factory=list)
    )
    energy_exporter: Annotated[JouleBounds | None, doc("", "By the exporter's own record of every counter change.")] = None
    energy_prometheus: Annotated[JouleBounds | None, doc("", "By the samples in Prometheus.")] = None
    clock_offset_seconds: Annotated[ClockOffsets, doc("", "Differences of clocks.")] = msgspec.field(default_factory=ClockOffsets)
    sources: Annotated[dict[str, str], doc("", "By value of the task: `journal`, `prometheus` or `both`.")] = msgspec.field(
        default_factory=dict
    )
    disagreements: Annotated[list[Disagreement], doc("", "Values of which the sources differ.")] = msgspec.field(
        default_factory=list
    )


# --- per_gpu ----------------------------------------------------------------------------------------------------------------


class GpuEnergy(WindowMeasurement):
    """The energy of one GPU."""

    source: Annotated[Text, doc("", "`exporter` or `prometheus`.")] = None


class GaugeStats(Record):
    """A gauge over the window, each sample weighed by the time until half way to its neighbours."""

    mean: Annotated[Number, doc("as the gauge", "Mean.")] = None
    low: Annotated[Number, doc("as the gauge", "Lowest sample.")] = None
    high: Annotated[Number, doc("as the gauge", "Highest sample.")] = None
    samples: Annotated[Count, doc("samples", "Samples in the window.")] = None
    coverage: Annotated[Number, doc("ratio", "Share of the window within one usual sample distance of a sample.")] = None
    longest_gap: Annotated[Number, doc("s", "Longest time without a sample.")] = None


class LinkBytes(Record):
    """Bytes over a link in one direction."""

    bytes: Annotated[Number, doc("bytes", "Growth of the counter over the window.")] = None
    low: Annotated[Number, doc("bytes", "Lower bound.")] = None
    high: Annotated[Number, doc("bytes", "Upper bound.")] = None


class CappedClock(Record):
    """The SM clock while the power limit held it down, by samples with the power at the limit before and after them."""

    capped_hz: Annotated[Number, doc("Hz", "Mean, weighed by the time at the limit.")] = None
    capped_low_hz: Annotated[Number, doc("Hz", "Lowest sample.")] = None
    max_hz: Annotated[Number, doc("Hz", "Highest clock of the card.")] = None
    samples: Annotated[Count, doc("samples", "Samples behind it.")] = None


class GpuResult(Record):
    """One GPU of the task."""

    gpu: Annotated[Text, doc("", "Its index.")] = None
    uuid: Annotated[Text, doc("", "Its UUID.")] = None
    name: Annotated[Text, doc("", "Its product name.")] = None
    power_limit_w: Annotated[Number, doc("W", "Highest enforced power limit while the run went; null for a card without.")] = None
    energy: Annotated[GpuEnergy, doc("", "Its energy.")] = msgspec.field(default_factory=GpuEnergy)
    energy_exporter: Annotated[JouleBounds | None, doc("", "By the exporter.")] = None
    energy_prometheus: Annotated[JouleBounds | None, doc("", "By Prometheus.")] = None
    throttle_seconds_by_reason: Annotated[dict[str, Number], doc("s", "Seconds that clocks were held down, by reason.")] = (
        msgspec.field(default_factory=dict)
    )
    throttle_sources: Annotated[dict[str, str], doc("", "By reason: `exporter` or `prometheus`.")] = msgspec.field(
        default_factory=dict
    )
    min_temp_margin_c: Annotated[Number, doc("°C", "Least margin to the temperature at which it slows down.")] = None
    memory_total_bytes: Annotated[Number, doc("bytes", "Memory of the card.")] = None
    link_bytes: Annotated[dict[str, dict[str, LinkBytes]], doc("", "By link and direction, those that the card counts.")] = (
        msgspec.field(default_factory=dict)
    )
    power_capped_clock: Annotated[CappedClock | None, doc("", "Null where the power limit never held it down.")] = None
    util_pct: Annotated[GaugeStats | None, doc("%", "Utilization.")] = None
    vram_mb: Annotated[GaugeStats | None, doc("MiB", "Memory in use.")] = None
    temp_c: Annotated[GaugeStats | None, doc("°C", "Temperature.")] = None
    power_w: Annotated[GaugeStats | None, doc("W", "Power.")] = None


# --- throttle, phases, idle, efficiency, calls, attribution, model_server -----------------------------------------------------


class ThrottleDisagreement(Record):
    """Throttled seconds that the samples in Prometheus exclude."""

    uuid: Annotated[Text, doc("", "The GPU.")] = None
    reason: Annotated[Text, doc("", "The throttle reason.")] = None
    exporter: Annotated[Number, doc("s", "As the exporter has it.")] = None
    prometheus: Annotated[Number, doc("s", "As the samples have it.")] = None


class Throttle(Record):
    """Seconds that something held clocks down, of the GPU that was held down most, for GPUs of a task wait for one another."""

    throttled_seconds: Annotated[
        Number, doc("s", "Longest of the reasons that are trouble: not of a power limit or a clock that was set.")
    ] = None
    seconds_by_reason: Annotated[dict[str, Number], doc("s", "By reason.")] = msgspec.field(default_factory=dict)
    source: Annotated[Text, doc("", "`exporter`, `prometheus` or `mixed`.")] = None
    sources: Annotated[dict[str, str | None], doc("", "By reason.")] = msgspec.field(default_factory=dict)
    throttled_seconds_exporter: Annotated[Number, doc("s", "By the exporter alone.")] = None
    throttled_seconds_prometheus: Annotated[Number, doc("s", "By Prometheus alone.")] = None
    disagreements: Annotated[list[ThrottleDisagreement], doc("", "Where the two exclude each other.")] = msgspec.field(
        default_factory=list
    )
    min_temp_margin_c: Annotated[Number, doc("°C", "Least margin of any GPU to the temperature at which it slows down.")] = None


class PhaseResult(Record):
    """One phase of the task; a moment in which several go on belongs to the first of decode, prefill, load, LLM, tool wait."""

    seconds: Annotated[Number, doc("s", "Its time; null where no call reports it.")] = None
    joules: Annotated[Number, doc("J", "Its energy; the phases add up to the task's joules.")] = None
    low_joules: Annotated[Number, doc("J", "Lower bound by the `source` of the phases; null where it has none.")] = None
    high_joules: Annotated[Number, doc("J", "Upper bound by the `source` of the phases; null where it has none.")] = None
    notes: Annotated[list[str], doc("", "What it rests on; `short` where the bounds lie more than 20 % of the joules apart.")] = (
        msgspec.field(default_factory=list)
    )


class Phases(Record):
    """What the joules were spent on. Null without a journal."""

    by_phase: Annotated[
        dict[str, PhaseResult] | None, doc("", "`decode`, `prefill`, `load`, `llm` (not split), `tool_wait` and `other`.")
    ] = None
    scale: Annotated[Number, doc("ratio", "Joules of the task over those of the phases before they were made to add up.")] = None
    source: Annotated[
        Text,
        doc(
            "",
            "`exporter`: by the exporter's own record between all changes of phase, or by that of calls, within which and between"
            " which stored samples split; `prometheus`: by stored samples alone, which are coarser.",
        ),
    ] = None

    @property
    def short(self) -> tuple[str, ...]:
        """Phases whose energy is not known well."""
        return tuple(phase for phase, energy in (self.by_phase or {}).items() if Reason.SHORT in energy.notes)


class IdleShare(Record):
    """The floor under the task's joules: idle power with the model loaded, times its duration."""

    watts: Annotated[Number, doc("W", "Idle power of its GPUs; from IDLE_POWER, the lowest that was measured.")] = None
    joules: Annotated[Number, doc("J", "Idle power times the window.")] = None
    active_joules: Annotated[Number, doc("J", "Joules of the window above that.")] = None
    reason: Annotated[Text, doc("", "Why it is unknown: `unknown`, `no_whole` or `below_idle`.")] = None


class Efficiency(Record):
    """Joules by token, call and waiting. Null where tasks overlapped."""

    joules_per_prompt_token: Annotated[Number, doc("J/token", "Prefill joules over the prompt tokens it worked on.")] = None
    prompt_tokens: Annotated[Number, doc("tokens", "These tokens.")] = None
    prompt_token_basis: Annotated[
        Text,
        doc(
            "",
            "`computed`: without those from the prefix cache; `effective`: all of the prompt, where a call does not report it.",
        ),
    ] = None
    joules_per_decode_token: Annotated[Number, doc("J/token", "Decode joules over decode tokens.")] = None
    decode_tokens: Annotated[Number, doc("tokens", "These tokens.")] = None
    joules_per_call: Annotated[Number, doc("J", "Mean of the calls whose joules are known.")] = None
    calls_with_energy: Annotated[Count, doc("calls", "These calls.")] = None
    call_energy_joules: Annotated[
        Number, doc("J", "Their sum, of shares where calls overlapped. A task that was killed has it without joules of its own.")
    ] = None
    tool_wait_joules: Annotated[Number, doc("J", "Joules while only tools ran.")] = None
    notes: Annotated[dict[str, list[str]], doc("", "What they rest on, by phase and for calls.")] = msgspec.field(
        default_factory=dict
    )
    reason: Annotated[Text, doc("", "`overlap` where tasks overlapped.")] = None


class CallResult(Record):
    """One LLM call, in the order in which they began; one that never ended has its start only."""

    call: Annotated[Any, doc("", "Its number in the task.")] = None
    model_name: Annotated[Text, doc("", "The model.")] = None
    start: Annotated[Number, doc("unix s", "When it began.")] = None
    end: Annotated[Number, doc("unix s", "When it ended.")] = None
    status: Annotated[Text, doc("", "`success`, `error`, or `cancelled` by the client.")] = None
    error: Annotated[Text, doc("", "What failed, in words.")] = None
    duration_seconds: Annotated[Number, doc("s", "Latency.")] = None
    ttft_seconds: Annotated[Number, doc("s", "Time to first token.")] = None
    prompt_tokens: Annotated[Count, doc("tokens", "Tokens of the prompt.")] = None
    cached_tokens: Annotated[Count, doc("tokens", "Those from the prefix cache.")] = None
    completion_tokens: Annotated[Count, doc("tokens", "Tokens of the reply.")] = None
    choices: Annotated[Count, doc("", "Choices of the reply, where there are several.")] = None
    usage_problem: Annotated[Text, doc("", "`one_choice`: the counts are of one of several choices.")] = None
    streamed_tokens: Annotated[
        Count, doc("tokens", "Events with output that arrived, mostly one a token: what is known of a reply that was cut off.")
    ] = None
    decode_tokens: Annotated[Count, doc("tokens", "Tokens that `decode_seconds` is the time of.")] = None
    prefill_seconds: Annotated[Number, doc("s", "Prompt evaluation, as the server timed it.")] = None
    decode_seconds: Annotated[Number, doc("s", "Generation.")] = None
    load_seconds: Annotated[Number, doc("s", "Loading the model.")] = None
    computed_tokens: Annotated[Count, doc("tokens", "Prompt tokens less those from the cache.")] = None
    joules: Annotated[
        Number,
        doc("J", "Energy of the call: its share where calls overlapped, an even part of each moment, so that calls add up."),
    ] = None
    low_joules: Annotated[Number, doc("J", "Lower bound; while the call was alone.")] = None
    high_joules: Annotated[Number, doc("J", "Upper bound; all of the window of the call.")] = None
    window_joules: Annotated[Number, doc("J", "All that the GPUs took during the call.")] = None
    quality: Annotated[Text, doc("", "As of a task.")] = None
    reasons: Annotated[list[str], doc("", "As of a task.")] = msgspec.field(default_factory=list)
    energy_source: Annotated[Text, doc("", "`exporter`, `prometheus` or null.")] = None
    throttled_seconds: Annotated[Number, doc("s", "As in `throttle`.")] = None
    max_temp_c: Annotated[Number, doc("°C", "Hottest sample; only of a task that was throttled.")] = None
    kv_cache_ratio: Annotated[Number, doc("ratio", "Highest use of the server's KV cache.")] = None
    running_requests: Annotated[Number, doc("requests", "Most requests that the server worked on.")] = None


class GpuShare(Record):
    """A task's share of one GPU."""

    lower: Annotated[Number, doc("J", "While the task was alone.")] = None
    attributed: Annotated[Number, doc("J", "Its share.")] = None
    fully_loaded: Annotated[Number, doc("J", "Its share, with a part of the idle energy of shared time.")] = None
    upper: Annotated[Number, doc("J", "All of its window.")] = None
    reasons: Annotated[list[str], doc("", "Why it is unknown.")] = msgspec.field(default_factory=list)


class Attribution(Record):
    """Joules that the task is charged: shares of overlapping tasks add up to what the GPUs took."""

    method: Annotated[Text, doc("", "`exclusive`, `by_execution`, `by_tokens` or `equal_share`, the weakest that counts.")] = None
    overlap_fraction: Annotated[Number, doc("ratio", "Share of the window in which another task's window lies.")] = None
    lower: Annotated[Number | msgspec.UnsetType, doc("J", "While the task was alone.")] = msgspec.UNSET
    attributed: Annotated[Number, doc("J", "Its share; all of its window where it was alone.")] = None
    fully_loaded: Annotated[Number | msgspec.UnsetType, doc("J", "Its share, with a part of the idle energy of shared time.")] = (
        msgspec.UNSET
    )
    upper: Annotated[Number | msgspec.UnsetType, doc("J", "All of its window.")] = msgspec.UNSET
    reasons: Annotated[list[str] | msgspec.UnsetType, doc("", "Why it is unknown.")] = msgspec.UNSET
    gpus: Annotated[dict[str, GpuShare] | msgspec.UnsetType, doc("", "By UUID, as they add up in run.json.")] = msgspec.UNSET
    source: Annotated[
        Text,
        doc(
            "",
            "Of a task that overlapped others: `exporter` where the joules between all starts and ends of tasks and of their work come"
            " from its answers, `prometheus` where they come from stored samples, else `mixed`; of a task alone that of its window.",
        ),
    ] = None


class MeterResult(WindowMeasurement):
    """The energy of one meter of ``--meters`` over the task's window, all series of its hosts together.

    The bounds of a counter are guaranteed by the times of its scrapes; those of a gauge hold where power stays between
    neighbouring samples. Both are widened by the error that the meter is configured with.
    """

    scope: Annotated[Text, doc("", "What it measures: `gpu`, `module`, `cpu`, `dram`, `host`, `wall` or `rack`.")] = None
    kind: Annotated[Text, doc("", "`counter` or `gauge`.")] = None
    mean_watts: Annotated[Number, doc("W", "Joules over the window's length.")] = None
    overlap_fraction: Annotated[
        Number, doc("ratio", "Share of the window in which another task that has the same series ran.")
    ] = None
    attributed_joules: Annotated[
        Number, doc("J", "The task's share; all of its window where no other task had the same series.")
    ] = None
    attributed_low_joules: Annotated[Number, doc("J", "While the task was alone; null where it was alone all the time.")] = None
    attributed_high_joules: Annotated[Number, doc("J", "All of its window; null where it was alone all the time.")] = None
    attribution_method: Annotated[Text, doc("", "As in `attribution`; null where the task was alone.")] = None
    hosts: Annotated[list[str], doc("", "Hosts of its series; `*` counts for any host.")] = msgspec.field(default_factory=list)
    series: Annotated[Count, doc("series", "Series that were added up.")] = None
    simulated: Annotated[bool, doc("", "Whether the meter is declared as simulated.")] = False


class EmissionResult(Record):
    """What the task emitted by a factor of ``emissions`` in the file of ``--meters``: energy times factor.

    A factor that is a series counts with its mean over the window, by time; the bounds are those of the energy with the lowest
    and the highest factor around the window.
    """

    amount: Annotated[Number, doc("g or L", "Grams of CO2 equivalent, or litres of water; null where unknown.")] = None
    low: Annotated[Number, doc("g or L", "Lower bound.")] = None
    high: Annotated[Number, doc("g or L", "Upper bound.")] = None
    unit: Annotated[Text, doc("", "`grams` (of CO2 equivalent) or `litres`.")] = None
    factor: Annotated[Number, doc("unit/kWh", "The constant, or the mean of the series over the window.")] = None
    factor_low: Annotated[Number, doc("unit/kWh", "Lowest factor.")] = None
    factor_high: Annotated[Number, doc("unit/kWh", "Highest factor.")] = None
    factor_samples: Annotated[Count, doc("samples", "Samples of the series behind it; null for a constant.")] = None
    of: Annotated[Text, doc("", "The meter or the scopes whose joules are taken.")] = None
    joules: Annotated[Number, doc("J", "These joules, the task's share where tasks overlapped.")] = None
    source: Annotated[Text, doc("", "Who published the factor, as it is configured.")] = None
    date: Annotated[Text, doc("", "The day that the factor is of, as it is configured.")] = None
    query: Annotated[Text, doc("", "The series, where the factor is not a constant.")] = None
    quality: Annotated[Text, doc("", "As of the joules; `missing` where the amount is unknown.")] = None
    reasons: Annotated[list[str], doc("", "Those of the joules, and why a factor is unknown.")] = msgspec.field(
        default_factory=list
    )
    simulated: Annotated[bool, doc("", "Whether the joules are simulated.")] = False


class SampleCounts(Record):
    """Samples behind the numbers of the model server."""

    memory: Annotated[Count, doc("samples", "Of its memory.")] = None
    queue: Annotated[Count, doc("samples", "Of its queue.")] = None


class ModelServer(Record):
    """What the model server reports of itself. Null where it does not, or where several serve this model."""

    size_bytes: Annotated[Number, doc("bytes", "Size of the loaded model.")] = None
    vram_bytes: Annotated[Number, doc("bytes", "Part of it in GPU memory.")] = None
    offload_ratio: Annotated[Number, doc("ratio", "Share of the model in GPU memory, mean over the task.")] = None
    context_tokens: Annotated[Number, doc("tokens", "Context length it was loaded with.")] = None
    kv_cache_bytes: Annotated[Number, doc("bytes", "KV cache for that context, estimated from the model's shape.")] = None
    loads: Annotated[Number, doc("loads", "Times it loaded the model during the task.")] = None
    kv_cache_ratio_max: Annotated[Number, doc("ratio", "Highest use of the KV cache.")] = None
    running_requests: Annotated[Number, doc("requests", "Mean number it worked on, whoever sent them.")] = None
    running_requests_max: Annotated[Number, doc("requests", "Highest.")] = None
    waiting_requests: Annotated[Number, doc("requests", "Mean number in its queue.")] = None
    samples: Annotated[SampleCounts, doc("", "Samples behind them.")] = msgspec.field(default_factory=SampleCounts)


class Generation(Record):
    """Rates of a backfilled file of the client, each with what it is a rate of."""

    end_to_end_tokens_per_second: Annotated[Number, doc("tokens/s", "Completion tokens over latency.")] = None
    decode_tokens_per_second: Annotated[Number, doc("tokens/s", "As in `throughput_metrics`.")] = None
    prefill_tokens_per_second: Annotated[
        Number, doc("tokens/s", "Prompt tokens over prompt evaluation, as the server timed it.")
    ] = None
    ttft_measured_calls: Annotated[Count, doc("calls", "Calls whose first token was seen.")] = None


class TaskResult(Record):
    """A result file. ``path`` is where it was read from, and is not written."""

    schema_version: Annotated[Count, doc("", "Of this document; absent in files of the client.")] = None
    metadata: Annotated[Metadata, doc("", "What the task is.")] = msgspec.field(default_factory=Metadata)
    llm_error_count: Annotated[Count, doc("calls", "LLM calls that failed.")] = None
    raw_events: Annotated[
        list[Event],
        doc(
            "",
            "The journal's events of the task, energies left out; `event` repeats `event_type`, and `data` what the client's users read there.",
        ),
    ] = msgspec.field(default_factory=list)
    computed_metrics: Annotated[ComputedMetrics, doc("", "Totals from events.")] = msgspec.field(default_factory=ComputedMetrics)
    gpu_hardware_metrics: Annotated[HardwareMetrics | None, doc("", "All GPUs as one; null without a window.")] = None
    measurement: Annotated[Measurement, doc("", "The energy and how good it is.")] = msgspec.field(default_factory=Measurement)
    per_gpu: Annotated[list[GpuResult], doc("", "Each GPU.")] = msgspec.field(default_factory=list)
    throttle: Annotated[Throttle, doc("", "Throttling.")] = msgspec.field(default_factory=Throttle)
    phases: Annotated[Phases, doc("", "What the joules were spent on.")] = msgspec.field(default_factory=Phases)
    idle: Annotated[IdleShare, doc("", "The idle floor.")] = msgspec.field(default_factory=IdleShare)
    efficiency: Annotated[Efficiency, doc("", "Joules by token and call.")] = msgspec.field(default_factory=Efficiency)
    calls: Annotated[list[CallResult], doc("", "Each LLM call.")] = msgspec.field(default_factory=list)
    attribution: Annotated[Attribution, doc("", "Joules that the task is charged.")] = msgspec.field(default_factory=Attribution)
    call_energy: Annotated[list[Event], doc("", "The exporter's answers for calls.")] = msgspec.field(default_factory=list)
    model_server: Annotated[ModelServer, doc("", "The model server.")] = msgspec.field(default_factory=ModelServer)
    meters: Annotated[
        dict[str, MeterResult], doc("", "Other meters by their name in the file of `--meters`; empty without any.")
    ] = msgspec.field(default_factory=dict)
    emissions: Annotated[
        dict[str, EmissionResult], doc("", "`carbon` and `water`, where the file of `--meters` has factors; else empty.")
    ] = msgspec.field(default_factory=dict)
    generation: Annotated[Generation | msgspec.UnsetType, doc("", "Only in backfilled files of the client.")] = msgspec.UNSET
    path: Annotated[Path | None, doc("", "Not written.")] = None

    @property
    def key(self) -> tuple[str, str, str]:
        """(run, task, worker)."""
        meta = self.metadata
        return meta.run_id or "", meta.task_id or "", meta.worker or ""

    @property
    def is_of_client(self) -> bool:
        """Whether the MCPWorld client wrote the file; backfill may have put its measurement into it."""
        return self.schema_version is None and self.metadata.run_id is None

    @property
    def is_measured(self) -> bool:
        """Whether the file holds a measurement of ours; a client's file that was never backfilled does not."""
        return self.measurement.quality is not None

    @property
    def window(self) -> tuple[float, float] | None:
        """(start, end) in unix seconds."""
        start, end = self.metadata.session_start_unix, self.metadata.session_end_unix
        return None if start is None or end is None else (start, end)

    @property
    def overlapped(self) -> bool:
        return bool(self.attribution.overlap_fraction)

    @property
    def charged_joules(self) -> float | None:
        """The share where tasks overlapped, else all of the window."""
        return self.attribution.attributed if self.overlapped else self.measurement.joules
