"""A ``libnvidia-ml.so.1`` with known joules: build it, script it, and ask what the truth was.

The unmodified pynvml loads it, by ``LD_LIBRARY_PATH`` in a subprocess (``environment``) or, once a process, in this one
(``load``). The truth is an integral in ``truth.py`` and never passes through the C code that it judges.
"""

from tests.fakes.nvml.busy import BusyFile
from tests.fakes.nvml.library import SCRIPT_VARIABLE, build, calls, environment, load
from tests.fakes.nvml.script import (
    MIG_3G,
    MIG_4G,
    Answer,
    During,
    Every,
    FakeGpu,
    FakeGpuScript,
    Fault,
    Mig,
    OnCalls,
    Process,
    counter_freezes,
    fails,
    field_answers,
    field_fails,
    field_moves,
    gone,
    slow,
)
from tests.fakes.nvml.virtual_clock import VirtualClock

__all__ = [
    "MIG_3G",
    "MIG_4G",
    "SCRIPT_VARIABLE",
    "Answer",
    "BusyFile",
    "During",
    "Every",
    "FakeGpu",
    "FakeGpuScript",
    "Fault",
    "Mig",
    "OnCalls",
    "Process",
    "VirtualClock",
    "build",
    "calls",
    "counter_freezes",
    "environment",
    "fails",
    "field_answers",
    "field_fails",
    "field_moves",
    "gone",
    "load",
    "slow",
]
