"""Around the tasks: a warm-up that counts for no task, and idle power with the model loaded, while the GPUs are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from joulebench.bench.stage import Work
from joulebench.clock import Clock
from joulebench.errors import ModelError
from joulebench.llm.chat import ChatModel, Message
from joulebench.llm.client import ChatClient
from joulebench.push.run import Run
from joulebench.units import Seconds

WARM_UP_SECONDS = 300.0
"""Loading a large model from a slow disk takes minutes."""
WARM_UP = "Good day."
"""In place of a task's question: what all tasks share is then in a server's prefix cache, and the words of none."""


@contextmanager
def quiet_around(
    run: Run,
    model: ChatModel,
    like: Work,
    clock: Clock,
    tell: Callable[[str], object],
    *,
    idle_seconds: float,
    warm_up: bool,
    measure_logprobs: bool = False,
) -> Iterator[None]:
    """Warms up before the body, and measures idle power before and after it where an exporter answers (0 seconds: not).

    Idle power is that of a loaded model, so a measurement warms up in any case. The warm-up is of the form of the task ``like``.
    ``measure_logprobs``: repeat the warm-up with logprobs and without, and go without where they are not cheap.
    """
    measures = idle_seconds > 0 and run.exporter_answers()
    if idle_seconds > 0 and not measures:
        tell("idle power is not measured: no exporter answers")
    if warm_up or measures:
        _warm_up(run, model, like, clock, tell, measure_logprobs=measure_logprobs)
    if measures:
        _measure(run, idle_seconds, "before", tell)
    yield
    if measures:
        _measure(run, idle_seconds, "after", tell)


def _warm_up(
    run: Run, model: ChatModel, like: Work, clock: Clock, tell: Callable[[str], object], *, measure_logprobs: bool
) -> None:
    try:
        with like.stage() as stage, run.warm_up(model.name):
            words = [*stage.opening()[:-1], Message("user", WARM_UP)]
            deadline = Seconds(clock.monotonic() + WARM_UP_SECONDS)
            model.reply(words, stage.specs, lambda: None, deadline)
            if (
                measure_logprobs
                and isinstance(model, ChatClient)
                and (cost := model.measure_logprobs(words, stage.specs, deadline))
            ):
                tell(str(cost))
    except ModelError as error:
        tell(f"the warm-up call failed, so the first task may pay for loading the model: {error}")


def _measure(run: Run, seconds: float, label: str, tell: Callable[[str], object]) -> None:
    found = [gpu.watts for gpu in run.measure_idle(seconds, label)]
    watts = [value for value in found if value is not None]
    if watts and len(watts) == len(found):
        tell(f"idle power {label} the tasks, model loaded: {sum(watts):.1f} W on {len(watts)} GPU{'s' if len(watts) > 1 else ''}")
    else:
        tell(f"idle power {label} the tasks is not known")
