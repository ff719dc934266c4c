"""A ``libamd_smi.so`` with known joules for the unmodified package ``amdsmi``: build it, script it, ask what the truth was."""

from tests.fakes.amdsmi.library import HOME_VARIABLE, SCRIPT_VARIABLE, bound_names, build, environment, wrapper_source
from tests.fakes.amdsmi.script import (
    BUSY,
    DRIVER_NOT_LOADED,
    JOULES_PER_COUNT,
    NO_PERMISSION,
    NOT_SUPPORTED,
    AmdFault,
    AmdGpu,
    AmdScript,
)

__all__ = [
    "BUSY",
    "DRIVER_NOT_LOADED",
    "HOME_VARIABLE",
    "JOULES_PER_COUNT",
    "NOT_SUPPORTED",
    "NO_PERMISSION",
    "SCRIPT_VARIABLE",
    "AmdFault",
    "AmdGpu",
    "AmdScript",
    "bound_names",
    "build",
    "environment",
    "wrapper_source",
]
