"""Why a number is not beyond question: every quality reason and note of a result, each with a sentence.

The verdict of a window is the worst of ``ok``, ``short``, ``suspect`` and ``missing`` that its reasons call for.
"""

from __future__ import annotations

from enum import Enum

QUALITIES = ("ok", "short", "suspect", "missing")
"""From best to worst. ``ok`` promises that the bounds hold and are narrow."""


class Reason(str, Enum):
    """A reason of a window's quality: equal to its text, with ``verdict`` (what it makes of a window) and ``sentence``."""

    verdict: str
    sentence: str

    def __new__(cls, value: str, verdict: str, sentence: str) -> Reason:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.verdict = verdict
        reason.sentence = sentence
        return reason

    def __str__(self) -> str:
        return str.__str__(self)

    # The counter in the window.
    SHORT = (
        "short",
        "short",
        "The bounds lie further apart than 20 % of the joules, or fewer than two counter changes fell into it.",
    )
    GAP = "gap", "suspect", "An edge of the window lies in a stretch without samples longer than five usual counter steps."
    RESET = (
        "reset",
        "suspect",
        "The energy counter began anew within the window; what was used between the two epochs is unknown.",
    )
    GLITCH = "glitch", "suspect", "Readings near the window were impossible for the card and were left out."
    UNCOVERED_START = "uncovered_start", "suspect", "The first counter value came after the window began."
    UNCOVERED_END = "uncovered_end", "suspect", "The last counter value came before the window ended."
    NO_SAMPLES = "no_samples", "missing", "No counter value is known in the window."
    SENSOR_LAG = (
        "sensor_lag",
        "ok",
        "The sensor shows energy late; times were corrected by its lag, and the bounds hold for delays up to twice the lag.",
    )
    AVERAGED_POWER = (
        "averaged_power",
        "short",
        "The card has no counter and shows power averaged over more than a fifth of the window.",
    )
    PART_TIME_SENSOR = (
        "part_time_sensor",
        "ok",
        "The card's sensor sees a part of the time only; the error averages out over long windows.",
    )
    COUNTER_DISAGREES = (
        "counter_disagrees",
        "suspect",
        "The energy counter and integrated power of the card differ by more than 10 %.",
    )
    COUNTER_STALLED = "counter_stalled", "suspect", "The energy counter stood still while power flowed, so power was integrated."

    # The window itself.
    NO_START = "no_start", "missing", "The start of the task is not known."
    NO_END = "no_end", "missing", "The task never ended, as far as is known."
    ENDS_BEFORE_START = "ends_before_start", "missing", "The task ends before it starts."
    CLOCK_STEP = "clock_step", "suspect", "A wall clock was set during the task, so the window is not the time it took."
    CLOCK_OFFSET = "clock_offset", "suspect", "Two clocks of the measurement differ by more than 0.25 s."

    # The devices.
    NO_GPU = "no_gpu", "missing", "No GPU is known that served the task."
    GPU_LOST = "gpu_lost", "suspect", "A GPU did not answer for some of the window."
    GPU_MISSING = "gpu_missing", "suspect", "A GPU that was busy before is not in the answer, so the total may lack its joules."
    GPU_SHARED = "gpu_shared", "suspect", "Several servers shared a GPU; joules were split by their use of it."
    FOREIGN_PROCESS = "foreign_process", "suspect", "A process that is not expected on the GPU used it in the window."
    DEVICES_ASSUMED = (
        "devices_assumed",
        "suspect",
        "All GPUs are counted since nothing says which served the task, and they were used differently.",
    )
    MIG_ESTIMATED = (
        "mig_estimated",
        "suspect",
        "The task ran on a MIG slice; power is measured for the whole GPU only, so its part is an estimate.",
    )
    SEVERAL_EXPORTERS = (
        "several_exporters",
        "suspect",
        "GPUs of several exporters are added up though nothing says which served the task.",
    )
    HOST_WITHOUT_METER = (
        "host_without_meter",
        "missing",
        "The meter has no series for a host or a GPU of the task, so its total is unknown.",
    )
    HOST_UNKNOWN = "host_unknown", "missing", "The host of the task is not known, and the meter has series of several hosts."
    HOST_ASSUMED = "host_assumed", "suspect", "The host of the task is not known; the only host of the meter was taken."
    NO_FACTOR = (
        "no_factor",
        "missing",
        "The series of the emission factor has no sample for a part of the window, so what the task emitted is unknown.",
    )
    SEVERAL_FACTORS = "several_factors", "missing", "The query of the emission factor selects several series."
    NOT_METERED = "not_metered", "missing", "The joules that the emission factor is of were not measured."
    REMOTE_MODEL = "remote_model", "missing", "The model runs elsewhere, so the local GPUs did not serve it."

    # The sources.
    NO_ANSWER = "no_answer", "missing", "The exporter was asked for the window and its answer has no joules."
    HOST_MISSING = "host_missing", "missing", "The exporter of one of the hosts did not answer, so the total is unknown."
    NOT_SCRAPED = "not_scraped", "ok", "Prometheus has no samples of the GPU, so it has no statistics."
    PROMETHEUS_FAILED = "prometheus_failed", "ok", "Prometheus could not be asked, so there are no samples."
    PROMETHEUS_NOT_ASKED = "prometheus_not_asked", "ok", "The export ran without Prometheus, so there are no samples."
    ENERGY_DISAGREEMENT = "energy_disagreement", "suspect", "The exporter and Prometheus give energies that cannot both be true."
    SOURCES_DISAGREE = "sources_disagree", "suspect", "The journal and the pushed metrics of the task differ."
    REQUESTS_NOT_JOURNALED = (
        "requests_not_journaled",
        "suspect",
        "The metering proxy counted more requests of the task than the journals hold: a disk was full or did not answer, or a journal"
        " is missing.",
    )
    PROXY_RESTARTED = (
        "proxy_restarted",
        "suspect",
        "The metering proxy began to count the task anew; what it counted after its last scrape before that is missing.",
    )
    THROTTLE_DISAGREEMENT = (
        "throttle_disagreement",
        "suspect",
        "The exporter and Prometheus give throttled seconds that cannot both be true.",
    )

    # What happened meanwhile.
    OVERLAP = "overlap", "suspect", "Another task ran on the same GPUs; the window holds its joules too."
    CALLS_OVERLAP = (
        "calls_overlap",
        "suspect",
        "Other calls ran on the same GPUs; the joules are an even share of the time with them.",
    )
    THROTTLED = "throttled", "suspect", "Clocks were held down for more than 5 % of the task."
    BELOW_IDLE = "below_idle", "suspect", "The task took less than its GPUs take when idle, so one of the two is wrong."
    CALLS_EXCEED_TASK = (
        "calls_exceed_task",
        "suspect",
        "The calls of the task took more joules than the whole task can have taken.",
    )

    # Phases, shares and other parts of a window.
    NOT_REPORTED = "not_reported", "ok", "No call reports this phase; its time is part of the other phases."
    PARTIAL = "partial", "ok", "Some calls do not report this phase."
    BY_TTFT = "by_ttft", "ok", "Prefill ends at the first token that the client saw, so it holds queue and network time."
    BY_PROMETHEUS = "by_prometheus", "ok", "Computed from stored samples, which are coarser than the exporter's own."
    IDLE_UNKNOWN = "idle_unknown", "ok", "The idle power is not known, so all energy of shared time counts as work."


NOTES = {
    "unknown": "The idle power of a GPU of the task was not measured.",
    "no_whole": "The joules of the task are not known.",
}
"""Reasons of the section ``idle`` beside ``below_idle``."""


def quality_of(reasons: tuple[str, ...] | list[str]) -> str:
    """The worst verdict of these reasons; a reason of a later version counts as ``suspect``."""
    known = {reason.value: reason.verdict for reason in Reason}
    return max((known.get(reason, "suspect") for reason in reasons), key=QUALITIES.index, default="ok")
