"""Records what NVML says on this machine, by the same calls and the same readers as the exporter; it sets and resets nothing.

Each call is made a few times for its answer and cost. Then all cards are polled fast together, as the exporter reads them,
for the beat of their counters; so a capture shows both what the driver said and what the sensor made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from joulebench import __version__
from joulebench.clock import Clock
from joulebench.errors import GpuError, GpuUnavailable
from joulebench.gpu import nvml_calls
from joulebench.gpu.capture_format import CallCapture, Capture, FieldCapture, GpuCapture, masked
from joulebench.gpu.capture_series import Series, microseconds
from joulebench.gpu.card import Card, fields_of
from joulebench.gpu.field_block import FieldBlock
from joulebench.gpu.nvml_calls import Call, Handle, Nvml

REPEATS = 20
"""Of each call, for its cost."""
POLL_SECONDS = 0.005
SLOW_SECONDS = 1.0
RETRY_SECONDS = 0.5
"""After a read that failed: a card that is lost is not to be pressed."""


class Machine(Nvml, Protocol):
    """All of NVML on one machine."""

    def driver_version(self) -> str: ...

    def count(self) -> int: ...

    def binding_version(self) -> str: ...


def record(
    nvml: Machine,
    clock: Clock,
    wait: Callable[[float], object],
    seconds: float,
    *,
    label: str | None = None,
    keep_uuid: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Capture:
    """``wait``: lets that many seconds pass. ``progress``: told the seconds polled so far. Raises GpuUnavailable."""
    driver, count = nvml.driver_version(), nvml.count()
    if count == 0:
        raise GpuUnavailable("the NVIDIA driver runs but knows no GPU")
    recorded_at = clock.unix()
    gpus = [_Gpu(nvml, index, driver, clock) for index in range(count)]
    _poll([gpu for gpu in gpus if gpu.card is not None], clock, wait, seconds, progress)
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
    gpus: Sequence[_Gpu], clock: Clock, wait: Callable[[float], object], seconds: float, tell: Callable[[float], None]
) -> None:
    begun: float = clock.monotonic()
    due, slow_due = begun, begun
    for gpu in gpus:
        gpu.series = Series(begun)
    while gpus and due < begun + seconds:
        for gpu in gpus:
            gpu.read_fast()
        now: float = clock.monotonic()
        if now >= slow_due:
            slow_due += SLOW_SECONDS
            for gpu in gpus:
                gpu.read_slow()
            tell(now - begun)
        due = max(due + POLL_SECONDS, now)
        wait(max(0.0, due - clock.monotonic()))


class _Gpu:
    def __init__(self, nvml: Nvml, index: int, driver: str, clock: Clock) -> None:
        self._nvml, self._index, self._clock = nvml, index, clock
        self.card: Card | None = None
        self.series: Series | None = None
        self._retry_at = 0.0
        self._error: str | None = None
        self._calls: list[CallCapture] = []
        self._fields: list[FieldCapture] = []
        code, handle = nvml.handle(index)
        if handle is None:
            self._error = f"nvmlDeviceGetHandleByIndex: {nvml.text(code)}"
            return
        self._calls = [self._call(call, handle) for call in (nvml_calls.NAME, nvml_calls.ARCHITECTURE, *nvml_calls.READS)]
        self._fields = [self._field(field, handle) for field in fields_of(driver)]
        try:
            self.card = Card(nvml, index, driver)
        except GpuError as error:
            self._error = str(error)

    def _call(self, call: Call, handle: Handle) -> CallCapture:
        answers, spans = self._repeated(lambda: self._nvml.answer(call, handle))
        code, answer = answers[-1]
        return CallCapture(call.symbol, call.arguments if not call.exported_as else (), code, _plain(answer), microseconds(spans))

    def _field(self, field: int, handle: Handle) -> FieldCapture:
        block = FieldBlock([field])
        codes, spans = self._repeated(self._nvml.filler(handle, block))
        answer = block.answers(block.raw())[field]
        code = codes[-1] or answer.code
        return FieldCapture(field, code, None if code else answer.kind, None if code else answer.value, microseconds(spans))

    def _repeated(self, ask: Callable[[], Any]) -> tuple[list[Any], list[float]]:
        answers, spans = [], []
        for _ in range(REPEATS):
            before = self._clock.monotonic()
            answers.append(ask())
            spans.append(self._clock.monotonic() - before)
        return answers, spans

    def read_fast(self) -> None:
        assert self.card is not None
        assert self.series is not None
        before = self._clock.monotonic()
        if before < self._retry_at:
            return
        try:
            reading = self.card.read_fast()
        except GpuError as error:
            self.series.fail(self._clock.monotonic(), str(error))
            self._retry_at = before + RETRY_SECONDS
        else:
            self.series.observe(before, self._clock.monotonic(), reading)

    def read_slow(self) -> None:
        assert self.card is not None
        assert self.series is not None
        before = self._clock.monotonic()
        try:
            self.card.read_slow()
        except GpuError:
            return  # the fast read says it too, and more often
        self.series.slow_costs.append(self._clock.monotonic() - before)

    def capture(self, keep_uuid: bool) -> GpuCapture:
        uuid = None if self.card is None else self.card.identity.uuid
        return GpuCapture(
            index=self._index,
            name="unknown" if self.card is None else self.card.identity.name,
            uuid=uuid if uuid is None or keep_uuid else masked(uuid),
            error=self._error,
            calls=self._calls,
            fields=self._fields,
            energy=None if self.series is None else self.series.capture(),
        )


def _plain(answer: Any) -> Any:
    """A structure of the binding as a mapping; numbers and text as they are."""
    fields = getattr(answer, "_fields_", None)
    return answer if fields is None else {name: getattr(answer, name) for name, *_ in fields}
