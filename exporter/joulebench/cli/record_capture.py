"""``joulebench record-capture``: this machine's NVML answers in one file, for a bug report or as a test."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TextIO

from joulebench.clock import SystemClock
from joulebench.errors import UserError

SHORTEST, LONGEST = 2.0, 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    from joulebench.gpu.capture_format import LABELS

    parser.add_argument("--out", type=Path, metavar="FILE", help="default: <gpu>__<driver>__<label>.json in this directory")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to poll the counters (default: %(default)s)")
    parser.add_argument(
        "--label", choices=LABELS, help="what the GPUs do meanwhile; record one capture of each, and run a load for the second"
    )
    parser.add_argument("--keep-uuid", action="store_true", help="write the GPUs' UUIDs as they are, not a hash of them")


def run(args: argparse.Namespace) -> int:
    from joulebench.gpu import capture
    from joulebench.gpu.capture_format import file_name, text_of
    from joulebench.gpu.nvml import Library

    if not SHORTEST <= args.seconds <= LONGEST:
        raise UserError(f"--seconds: {args.seconds:g} is not between {SHORTEST:g} and {LONGEST:g}")
    if args.out is not None:
        _check_free(args.out)
    progress = Progress(sys.stderr, args.seconds)
    with closing(Library()) as nvml:
        captured = capture.record(
            nvml,
            SystemClock(),
            threading.Event().wait,
            args.seconds,
            label=args.label,
            keep_uuid=args.keep_uuid,
            progress=progress.tell,
        )
    progress.end()
    out: Path = args.out or Path(file_name(captured))
    _check_free(out)
    try:
        out.write_text(text_of(captured), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}; name another file") from error
    print(f"wrote {out}: {_summary(len(captured.gpus), args.keep_uuid)}")  # noqa: T201
    return 0


def _summary(gpus: int, keep_uuid: bool) -> str:
    kept = "with UUIDs as they are" if keep_uuid else "UUIDs are masked"
    return f"{gpus} GPU{'s' if gpus != 1 else ''}, {kept}; look through it, then attach it to the report"


def _check_free(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists; name another file with --out, or remove it")


class Progress:
    """One line on a terminal that is written over; nothing elsewhere."""

    def __init__(self, stream: TextIO, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._shown = stream.isatty()

    def tell(self, seconds: float) -> None:
        if self._shown:
            self._stream.write(f"\rrecording: {seconds:.0f} of {self._seconds:g} s")
            self._stream.flush()

    def end(self) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()
