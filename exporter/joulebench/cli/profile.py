"""``joulebench profile``: the time of each layer of a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from joulebench.errors import EnergyApiError, UserError

if TYPE_CHECKING:
    from joulebench.profile.measure import Phase
    from joulebench.profile.report import PhaseJoules

LONGEST = 1_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, or the name of a model that Ollama has installed here")
    parser.add_argument("--prompt-tokens", type=int, default=256, metavar="N", help="tokens of the prompt (default: %(default)s)")
    parser.add_argument(
        "--decode-tokens", type=int, default=32, metavar="N", help="tokens after it, one by one (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions of both (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: as llama.cpp chooses)")
    parser.add_argument(
        "--gpu-layers", type=int, default=-1, metavar="N", help="layers put on the GPU, -1 for all (default: all)"
    )
    parser.add_argument(
        "--exporter-url", metavar="URL", help="exporter to ask for the joules of the GPUs meanwhile (default: none)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    from joulebench.clock import SystemClock
    from joulebench.profile.llama import LlamaModel, LlamaSettings
    from joulebench.profile.measure import Work, profile
    from joulebench.profile.model_file import model_file
    from joulebench.profile.report import Profile
    from joulebench.settings import http_url

    for name in ("prompt_tokens", "decode_tokens", "repeat", "threads"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= LONGEST:
            raise UserError(f"--{name.replace('_', '-')}: {value} is not a number from 1 to {LONGEST}")
    url = http_url(args.exporter_url, "--exporter-url") if args.exporter_url else None
    path = model_file(args.model)
    work = Work(args.prompt_tokens, args.decode_tokens, args.repeat)
    model = LlamaModel(path, LlamaSettings(work.context, args.gpu_layers, args.threads))
    try:
        phases = profile(model, work, SystemClock())
        joules = {} if url is None else energy(url, phases)
        found = Profile(args.model, model.described, model.layers, model.on_gpu, work, tuple(phases), joules)
    finally:
        model.close()
    if args.format == "json":
        print(json.dumps(found.data(), indent=1, allow_nan=False))  # noqa: T201
    else:
        for line in found.lines():
            print(line)  # noqa: T201
    return 0


def energy(url: str, phases: Sequence[Phase]) -> dict[str, PhaseJoules]:
    """Asked only when all is done: asking takes time that would be measured."""
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
        print(f"joulebench profile: no joules: {error}", file=sys.stderr)  # noqa: T201
        return {}
    finally:
        api.close()
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    """None as soon as one is not known, or where there is none."""
    some = list(values)
    known = [value for value in some if value is not None]
    return sum(known) if known and len(known) == len(some) else None
