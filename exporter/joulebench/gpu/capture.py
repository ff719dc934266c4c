"""Records what NVML answers on this machine, by the same calls and readers as the exporter; it sets and resets nothing.

Each call is made a few times for its answer and cost. Then all GPUs are polled fast together, as the exporter reads them, for
the period of their counters; so a capture shows both what the driver said and what the readers made of it. A capture is one
machine's answers in one file, to be attached to a bug report and replayed; format 1 is described in tests/captures/README.md,
and a change of meaning raises the number. It names no host, user or process, and a GPU by a hash of its UUID unless its owner
wants it otherwise. ``None`` is "unknown", never 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import Any, Protocol

from joulebench import __version__
from joulebench.clock import Clock
from joulebench.errors import GpuError, GpuUnavailable
from joulebench.gpu import nvml_calls
from joulebench.gpu.device import NvmlDevice
from joulebench.gpu.nvml_calls import Call, FieldBlock, Handle, Nvml
from joulebench.gpu.reading import CounterReading

FORMAT = "joulebench-capture"
VERSION = 1

LABELS = ("idle", "load")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 5th and 95th percentile."""

    median: float
    p5: float
    p95: float


@dataclass(frozen=True, slots=True)
class CallCapture:
    """``code``: NVML's return. ``answer``: as NVML gave it the last time, in its own units; None where the code is not 0."""

    function: str
    arguments: Sequence[int]
    code: int
    answer: Any
    microseconds: Spread | None


@dataclass(frozen=True, slots=True)
class FieldCapture:
    """``code``: of the field, or where that is 0 of the call. ``type``: NVML's value type."""

    field: int
    code: int
    type: int | None
    value: int | None
    microseconds: Spread | None


@dataclass(frozen=True, slots=True)
class EnergyCapture:
    """What the readers made of the answers over the recording. ``step_seconds``: between two changes of the counter, known to
    within ``poll_seconds``. ``counter_joules`` and ``power_joules``: from the first change to the last, by the counter and by the
    integral of the power shown. ``series``: [seconds, joules, watts] at each change."""

    seconds: float
    polls: int
    poll_seconds: float
    changes: int
    step_seconds: Spread | None
    counter_joules: float | None
    power_joules: float | None
    ratio: float | None
    fast_read_microseconds: Spread | None
    slow_read_microseconds: Spread | None
    failures: Sequence[str]
    series: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class GpuCapture:
    """``error``: why the exporter cannot read this GPU; None where it can."""

    index: int
    name: str
    uuid: str | None
    error: str | None
    calls: Sequence[CallCapture]
    fields: Sequence[FieldCapture]
    energy: EnergyCapture | None


@dataclass(frozen=True, slots=True)
class Capture:
    """``origin``: ``recorded`` on a machine. ``recorded_at``: unix seconds."""

    origin: str
    label: str | None
    recorded_at: float | None
    joulebench: str | None
    binding: str | None
    driver: str
    gpus: Sequence[GpuCapture]


def capture_json(capture: Capture) -> str:
    """Returns JSON with rows of numbers on one line each."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(capture)}, indent=1)
    return re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", _on_one_line, text) + "\n"


def _on_one_line(row: re.Match[str]) -> str:
    return f"[{' '.join(row[1].split())}]"


def capture_file_name(capture: Capture) -> str:
    """``<gpu>__<driver>__<label>.json``, with the number of GPUs in front where there are several."""
    names = list(dict.fromkeys(_slug(gpu.name) for gpu in capture.gpus))
    many = f"{len(capture.gpus)}x-" if len(capture.gpus) > 1 else ""
    return f"{many}{'+'.join(names)}__{_slug(capture.driver)}__{capture.label or 'unlabelled'}.json"


def mask_uuid(uuid: str) -> str:
    """Returns a hash that is the same for the same GPU; a UUID is too long to be guessed from it."""
    return f"GPU-masked-{hashlib.sha256(f'joulebench:{uuid}'.encode()).hexdigest()[:16]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"


def microseconds(seconds: Sequence[float]) -> Spread | None:
    return spread([duration * 1e6 for duration in seconds], 2)


def spread(values: Sequence[float], digits: int) -> Spread | None:
    """Returns None for fewer than two values."""
    if len(values) < 2:
        return None
    twentieths = quantiles(values, n=20, method="inclusive")
    return Spread(*(round(value, digits) for value in (median(values), twentieths[0], twentieths[-1])))


class PollSeries:
    """One GPU polled fast for some seconds: what each poll cost, when its counter changed, and whether its power agrees.

    ``observe`` takes each poll; ``state_costs`` the seconds of each state read; ``fail`` each failed poll. Without a counter
    there is no step, and without two of its changes no energy.
    """

    def __init__(self, begun_at: float) -> None:
        self.state_costs: list[float] = []
        self._begun_at = begun_at
        self._costs: list[float] = []
        self._ended_at = begun_at
        self._failures: dict[str, int] = {}
        self._last: CounterReading | None = None
        self._power: tuple[float, float] | None = None
        self._integral = 0.0
        # Of each change: when, joules and watts then, and the integral of power up to it.
        self._changes: list[tuple[float, float | None, float | None, float]] = []

    def fail(self, at: float, message: str) -> None:
        self._ended_at = at
        self._failures[message] = self._failures.get(message, 0) + 1

    def observe(self, before: float, after: float, reading: CounterReading) -> None:
        self._costs.append(after - before)
        self._ended_at = after
        at = (before + after) / 2
        if reading.power is not None:
            if self._power is not None:
                self._integral += (self._power[1] + reading.power) / 2 * (at - self._power[0])
            self._power = (at, reading.power)
        last, self._last = self._last, reading
        changed = last is not None and (
            reading.energy != last.energy if reading.energy is not None else reading.power != last.power
        )
        if changed:
            self._changes.append((at, reading.energy, reading.power, self._integral))

    def capture(self) -> EnergyCapture:
        counted = [(at, joules, integral) for at, joules, _, integral in self._changes if joules is not None]
        spent = counted[-1][1] - counted[0][1] if len(counted) > 1 else None
        # Over a gap the counter went on and the integral did not.
        is_complete = self._power is not None and not self._failures
        expected = counted[-1][2] - counted[0][2] if len(counted) > 1 and is_complete else None
        seconds = self._ended_at - self._begun_at
        polls = len(self._costs) + sum(self._failures.values())
        return EnergyCapture(
            seconds=round(seconds, 3),
            polls=polls,
            poll_seconds=round(seconds / polls, 5) if polls else 0.0,
            changes=len(counted),
            step_seconds=spread([later[0] - earlier[0] for earlier, later in pairwise(counted)], 5),
            counter_joules=None if spent is None else round(spent, 3),
            power_joules=None if expected is None else round(expected, 3),
            ratio=round(spent / expected, 4) if spent is not None and expected else None,
            fast_read_microseconds=microseconds(self._costs),
            slow_read_microseconds=microseconds(self.state_costs),
            failures=[f"{count} times: {message}" for message, count in self._failures.items()],
            series=[(round(at - self._begun_at, 4), joules, watts) for at, joules, watts, _ in self._changes],
        )


REPEATS = 20
"""Of each call, for its cost."""
POLL_SECONDS = 0.005
SLOW_SECONDS = 1.0
RETRY_SECONDS = 0.5
"""After a read that failed: a lost GPU is read seldom."""


class Machine(Nvml, Protocol):
    """NVML on one machine."""

    def driver_version(self) -> str: ...

    def count(self) -> int: ...

    def binding_version(self) -> str: ...


def record_capture(
    nvml: Machine,
    clock: Clock,
    wait: Callable[[float], object],
    seconds: float,
    *,
    label: str | None = None,
    keep_uuid: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Capture:
    """``wait``: lets that many seconds pass. ``progress``: called with the seconds polled so far. Raises GpuUnavailable."""
    driver, count = nvml.driver_version(), nvml.count()
    if count == 0:
        raise GpuUnavailable("the NVIDIA driver runs but knows no GPU")
    recorded_at = clock.unix()
    gpus = [_GpuRecorder(nvml, index, driver, clock) for index in range(count)]
    _poll([gpu for gpu in gpus if gpu.device is not None], clock, wait, seconds, progress)
    return Capture(
        origin="recorded",
        label=label,
        recorded_at=round(recorded_at),
        joulebench=__version__,
        binding=nvml.binding_version(),
        driver=driver,
        gpus=[gpu.capture(keep_uuid) for gpu in gpus],
    )


def _poll(
    gpus: Sequence[_GpuRecorder], clock: Clock, wait: Callable[[float], object], seconds: float, progress: Callable[[float], None]
) -> None:
    begun: float = clock.monotonic()
    due, slow_due = begun, begun
    for gpu in gpus:
        gpu.series = PollSeries(begun)
    while gpus and due < begun + seconds:
        for gpu in gpus:
            gpu.poll_counters()
        now: float = clock.monotonic()
        if now >= slow_due:
            slow_due += SLOW_SECONDS
            for gpu in gpus:
                gpu.poll_state()
            progress(now - begun)
        due = max(due + POLL_SECONDS, now)
        wait(max(0.0, due - clock.monotonic()))


class _GpuRecorder:
    def __init__(self, nvml: Nvml, index: int, driver: str, clock: Clock) -> None:
        self._nvml, self._index, self._clock = nvml, index, clock
        self.device: NvmlDevice | None = None
        self.series: PollSeries | None = None
        self._retry_at = 0.0
        self._error: str | None = None
        self._calls: list[CallCapture] = []
        self._fields: list[FieldCapture] = []
        code, handle = nvml.handle(index)
        if handle is None:
            self._error = f"nvmlDeviceGetHandleByIndex: {nvml.text(code)}"
            return
        self._calls = [self._call(call, handle) for call in (nvml_calls.NAME, nvml_calls.ARCHITECTURE, *nvml_calls.READS)]
        fields = (*nvml_calls.counter_fields(driver), nvml_calls.SLOWDOWN_OFFSET_FIELD)
        self._fields = [self._field(field, handle) for field in fields]
        try:
            self.device = NvmlDevice(nvml, index, driver)
        except GpuError as error:
            self._error = str(error)

    def _call(self, call: Call, handle: Handle) -> CallCapture:
        answers, spans = self._repeated(lambda: self._nvml.answer(call, handle))
        code, answer = answers[-1]
        return CallCapture(
            call.symbol, call.arguments if not call.exported_as else (), code, _as_plain(answer), microseconds(spans)
        )

    def _field(self, field: int, handle: Handle) -> FieldCapture:
        block = FieldBlock([field])
        codes, spans = self._repeated(lambda: self._nvml.fill(handle, block))
        answer = block.answers()[field]
        code = answer.code or codes[-1]
        return FieldCapture(field, code, None if code else answer.value_type, None if code else answer.value, microseconds(spans))

    def _repeated(self, ask: Callable[[], Any]) -> tuple[list[Any], list[float]]:
        answers, spans = [], []
        for _ in range(REPEATS):
            before = self._clock.monotonic()
            answers.append(ask())
            spans.append(self._clock.monotonic() - before)
        return answers, spans

    def poll_counters(self) -> None:
        assert self.device is not None
        assert self.series is not None
        before = self._clock.monotonic()
        if before < self._retry_at:
            return
        try:
            reading = self.device.read_counters()
        except GpuError as error:
            self.series.fail(self._clock.monotonic(), str(error))
            self._retry_at = before + RETRY_SECONDS
        else:
            self.series.observe(before, self._clock.monotonic(), reading)

    def poll_state(self) -> None:
        assert self.device is not None
        assert self.series is not None
        before = self._clock.monotonic()
        try:
            self.device.read_state()
        except GpuError:
            return  # the counter read fails too, and more often
        self.series.state_costs.append(self._clock.monotonic() - before)

    def capture(self, keep_uuid: bool) -> GpuCapture:
        uuid = None if self.device is None else self.device.identity.uuid
        return GpuCapture(
            index=self._index,
            name="unknown" if self.device is None else self.device.identity.name,
            uuid=uuid if uuid is None or keep_uuid else mask_uuid(uuid),
            error=self._error,
            calls=self._calls,
            fields=self._fields,
            energy=None if self.series is None else self.series.capture(),
        )


def _as_plain(answer: Any) -> Any:
    """Returns a structure of the binding as a mapping; numbers and text as they are."""
    fields = getattr(answer, "_fields_", None)
    return answer if fields is None else {name: getattr(answer, name) for name, *_ in fields}
