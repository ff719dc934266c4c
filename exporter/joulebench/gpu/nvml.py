"""The one door to NVML: the only file that imports its binding, and the source of all its cards.

Invariant: no unit of NVML's and no NVML error gets past it; what is asked, and of whom, stands in nvml_calls.py and card.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ctypes import byref, c_int32, memmove, sizeof
from functools import partial
from typing import Any, cast

import pynvml

from joulebench.errors import GpuError, GpuUnavailable
from joulebench.gpu import binding
from joulebench.gpu.card import Card
from joulebench.gpu.field_block import FieldBlock
from joulebench.gpu.nvml_calls import FIELD_VALUES, Call, Handle
from joulebench.gpu.processes import ProcessUse
from joulebench.gpu.reading import FastReading, GpuIdentity, SlowReading
from joulebench.units import Seconds

log = logging.getLogger(__name__)


class Library:
    """pynvml as ``nvml_calls.Nvml`` wants it, started. Raises GpuUnavailable with a reason to act on."""

    def __init__(self) -> None:
        problem = binding.wrong_module(pynvml)
        if problem:
            raise GpuUnavailable(problem)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise GpuUnavailable(binding.why_no_start(error.value, str(error))) from error

    def close(self) -> None:
        pynvml.nvmlShutdown()

    def binding_version(self) -> str:
        """The package behind the module, such as ``nvidia-ml-py 13.580.82``."""
        from importlib import metadata  # the exporter does without

        try:
            return f"nvidia-ml-py {metadata.version('nvidia-ml-py')}"
        except metadata.PackageNotFoundError:
            return f"unknown: {pynvml.__file__}"

    def driver_version(self) -> str:
        code, answer = _outcome(pynvml.nvmlSystemGetDriverVersion)
        self._check_running(code)
        return answer or "unknown"

    def count(self) -> int:
        """How many cards there are."""
        code, answer = _outcome(pynvml.nvmlDeviceGetCount)
        if code:
            raise self._no_cards(code)
        return int(answer)

    def _check_running(self, code: int) -> None:
        if code and code not in binding.ABSENT:
            raise self._no_cards(code)

    def _no_cards(self, code: int) -> GpuUnavailable:
        return GpuUnavailable(f"NVML runs but cannot be asked for its GPUs: {self.text(code)}")

    def handle(self, index: int) -> tuple[int, Handle | None]:
        return _outcome(pynvml.nvmlDeviceGetHandleByIndex, index)

    def handle_of(self, uuid: str) -> tuple[int, Handle | None]:
        return _outcome(pynvml.nvmlDeviceGetHandleByUUID, uuid)

    def answer(self, call: Call, handle: Handle) -> tuple[int, Any]:
        return _outcome(getattr(pynvml, call.function), handle, *call.arguments)

    def filler(self, handle: Handle, block: FieldBlock) -> Callable[[], int]:
        if not len(block):
            return lambda: 0
        pointer_of = getattr(pynvml, "_nvmlGetFunctionPointer", None)
        if pointer_of is None:
            return partial(_fill_by_wrapper, handle, block)
        code, pointer = _outcome(pointer_of, FIELD_VALUES)
        if code:
            return lambda: code
        return cast(Callable[[], int], partial(pointer, handle, c_int32(len(block)), byref(block.array)))

    def process_name(self, pid: int) -> str | None:
        _, answer = _outcome(pynvml.nvmlSystemGetProcessName, pid)
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer

    def text(self, code: int) -> str:
        return str(pynvml.NVMLError(code))


def _outcome(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    try:
        return 0, function(*arguments)
    except pynvml.NVMLError as error:
        return error.value, None


def _fill_by_wrapper(handle: Handle, block: FieldBlock) -> int:
    """For a binding that no longer shows its function pointers: dearer, and the same bytes."""
    code, values = _outcome(pynvml.nvmlDeviceGetFieldValues, handle, list(block.fields))
    if code == 0:
        memmove(block.array, values, sizeof(block.array))
    return code


class NvmlSource:
    """All GPUs that NVML names. Raises GpuUnavailable, with a reason to act on, where there is nothing to measure."""

    name = "nvml"

    def __init__(self) -> None:
        self._library = Library()
        try:
            # By NVML's index: one that cannot be named leaves a hole.
            self._cards = {card.identity.index: card for card in _find_cards(self._library)}
        except BaseException:
            self._library.close()
            raise

    def gpus(self) -> Sequence[GpuIdentity]:
        return [card.identity for card in self._cards.values()]

    def read_fast(self, index: int) -> FastReading:
        return self._cards[index].read_fast()

    def read_slow(self, index: int) -> SlowReading:
        return self._cards[index].read_slow()

    def read_processes(self, index: int, since: Seconds) -> Sequence[ProcessUse] | None:
        return self._cards[index].read_processes(since)

    def process_name(self, pid: int) -> str | None:
        """What the driver calls this process; None where it cannot or may not say."""
        return self._library.process_name(pid)

    def close(self) -> None:
        self._library.close()


def _find_cards(library: Library) -> list[Card]:
    """A card that cannot be named now is left out: without a UUID nothing could be said about it later."""
    version = library.driver_version()
    cards: list[Card] = []
    unreadable: list[str] = []
    for index in range(library.count()):
        try:
            cards.append(Card(library, index, version))
        except GpuError as error:  # noqa: PERF203
            unreadable.append(f"GPU {index}: {error}")
    if cards and unreadable:
        log.warning("left out, because it cannot be named: %s", "; ".join(unreadable))
    if not cards:
        raise GpuUnavailable("; ".join(unreadable) or "the NVIDIA driver runs but knows no GPU")
    return cards
