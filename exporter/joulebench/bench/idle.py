"""Idle power around the tasks: the model is loaded by one small call that counts for no task, then the GPUs are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from joulebench.bench.llm.chat import ChatModel, Message
from joulebench.clock import Clock
from joulebench.errors import ModelError
from joulebench.push.run import Run
from joulebench.units import Seconds

WARM_UP_SECONDS = 300.0
"""Loading a large model from a slow disk takes minutes."""
WARM_UP = "Reply with the word ok."


@contextmanager
def measured_idle(run: Run, model: ChatModel, clock: Clock, seconds: float, tell: Callable[[str], object]) -> Iterator[None]:
    """Measures before and after the body; with ``seconds`` 0, or where no exporter answers, it does nothing."""
    if not seconds:
        yield
        return
    if not run.exporter_answers():
        tell("idle power is not measured: no exporter answers")
        yield
        return
    _warm_up(run, model, clock, tell)
    _measure(run, seconds, "before", tell)
    yield
    _measure(run, seconds, "after", tell)


def _warm_up(run: Run, model: ChatModel, clock: Clock, tell: Callable[[str], object]) -> None:
    try:
        with run.warm_up(model.name):
            model.reply([Message("user", WARM_UP)], (), lambda: None, Seconds(clock.monotonic() + WARM_UP_SECONDS))
    except ModelError as error:
        tell(f"the warm-up call failed, so idle power may be that without a model: {error}")


def _measure(run: Run, seconds: float, label: str, tell: Callable[[str], object]) -> None:
    found = [gpu.watts for gpu in run.measure_idle(seconds, label)]
    watts = [value for value in found if value is not None]
    if watts and len(watts) == len(found):
        tell(f"idle power {label} the tasks, model loaded: {sum(watts):.1f} W on {len(watts)} GPU{'s' if len(watts) > 1 else ''}")
    else:
        tell(f"idle power {label} the tasks is not known")
