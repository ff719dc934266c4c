"""``joulebench profile`` and ``joulebench record-capture``: layer times of a model, and this machine's NVML answers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.clock import SystemClock
from joulebench.errors import EnergyApiError, UserError
from joulebench.gpu.capture import LABELS

if TYPE_CHECKING:
    from joulebench.profile.measure import Phase
    from joulebench.profile.report import PhaseJoules

COUNT = options.Number(int, 1, 1_000_000)


@click.command("profile")
@click.argument("model", metavar="MODEL")
@click.option("--prompt-tokens", type=COUNT, default=256, help="Tokens of the prompt.")
@click.option("--decode-tokens", type=COUNT, default=32, help="Tokens decoded after it, one at a time.")
@click.option("--repeat", type=COUNT, default=3, help="Repetitions of prefill and decode.")
@click.option("--threads", type=COUNT, help="Threads on the CPU.  [default: as llama.cpp chooses]")
@click.option("--gpu-layers", type=options.Number(int, -1), default=-1, help="Layers put on the GPU; -1 puts all of them.")
@options.exporter_option("Exporter that answers how many joules the GPUs took meanwhile.  [default: no joules]", default=None)
@options.format_option("text", "json")
def profile_command(
    model: str,
    prompt_tokens: int,
    decode_tokens: int,
    repeat: int,
    threads: int | None,
    gpu_layers: int,
    exporter_url: str | None,
    output_format: str,
) -> int:
    """Time each layer of MODEL in prefill and in decode, with the overhead of measuring.

    MODEL is a GGUF file, or the name of a model that Ollama has installed here.
    """
    from joulebench.profile.llama import LlamaModel, LlamaSettings
    from joulebench.profile.measure import Work, profile
    from joulebench.profile.model_file import model_file
    from joulebench.profile.report import Profile

    path = model_file(model)
    work = Work(prompt_tokens, decode_tokens, repeat)
    llama = LlamaModel(path, LlamaSettings(work.context, gpu_layers, threads))
    try:
        phases = profile(llama, work, SystemClock())
        joules = {} if exporter_url in (None, settings.NO_URL) else energy(str(exporter_url), phases)
        result = Profile(model, llama.described, llama.layers, llama.on_gpu, work, tuple(phases), joules)
    finally:
        llama.close()
    if output_format == "json":
        print(json.dumps(result.data(), indent=1, allow_nan=False))
    else:
        for line in result.lines():
            print(line)
    return 0


def energy(url: str, phases: Sequence[Phase]) -> dict[str, PhaseJoules]:
    """Returns the joules by phase. Called after the last phase: a request meanwhile would take time that is measured."""
    from joulebench.clients.exporter import ExporterApi
    from joulebench.profile.report import PhaseJoules

    api, found = ExporterApi(url), {}
    try:
        for phase in phases:
            answers = [api.energy(start, end, wait=1.0) for start, end in phase.windows]
            gpus = [gpu for answer in answers for gpu in answer.gpus]
            found[phase.name] = PhaseJoules(
                _sum(gpu.joules for gpu in gpus),
                _sum(gpu.low for gpu in gpus),
                _sum(gpu.high for gpu in gpus),
                answers[0].source,
            )
    except EnergyApiError as error:
        # The times stand without it.
        print(f"joulebench profile: no joules: {error}", file=sys.stderr)
        return {}
    finally:
        api.close()
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    """Returns the sum, or None where a value is unknown or there are no values."""
    some = list(values)
    known = [value for value in some if value is not None]
    return sum(known) if known and len(known) == len(some) else None


@click.command("record-capture")
@click.option("--out", type=options.FILE, help="[default: <gpu>__<driver>__<label>.json in this directory]")
@click.option(
    "--seconds", type=options.Number(float, 2, 600, unit="seconds"), default=10.0, help="How long the counters are polled."
)
@click.option(
    "--label",
    type=click.Choice(LABELS),
    help="What the GPUs do meanwhile; record one capture of each, and run a load for the second.",
)
@click.option("--keep-uuid", is_flag=True, help="Write the GPUs' UUIDs as they are, not a hash of them.")
def record_capture_command(out: Path | None, seconds: float, label: str | None, keep_uuid: bool) -> int:
    """Write this machine's NVML answers to a file, for a bug report or as a test."""
    from joulebench.gpu.capture import capture_file_name, capture_json, record_capture
    from joulebench.gpu.nvml import NvmlLibrary

    if out is not None:
        _require_free_path(out)
    progress = RecordingProgress(sys.stderr, seconds)
    with closing(NvmlLibrary()) as nvml:
        captured = record_capture(
            nvml, SystemClock(), threading.Event().wait, seconds, label=label, keep_uuid=keep_uuid, progress=progress.show
        )
    progress.end()
    path = out or Path(capture_file_name(captured))
    _require_free_path(path)
    try:
        path.write_text(capture_json(captured), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written: {error.strerror}; name another file") from error
    print(f"wrote {path}: {_summary(len(captured.gpus), keep_uuid)}")
    return 0


def _summary(gpus: int, keep_uuid: bool) -> str:
    kept = "with UUIDs as they are" if keep_uuid else "UUIDs are masked"
    return f"{gpus} GPU{'s' if gpus != 1 else ''}, {kept}; look through it, then attach it to the report"


def _require_free_path(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists; name another file with --out, or remove it")


class RecordingProgress:
    """Shows the seconds recorded in one line of a terminal, and nothing elsewhere."""

    def __init__(self, stream: TextIO, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._shown = stream.isatty()

    def show(self, seconds: float) -> None:
        if self._shown:
            self._stream.write(f"\rrecording: {seconds:.0f} of {self._seconds:g} s")
            self._stream.flush()

    def end(self) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()
