"""The flags of ``joulebench exporter`` for GPUs that are invented, and the source that they ask for."""

from __future__ import annotations

import argparse
import logging
import math
from typing import TYPE_CHECKING

from joulebench.clock import Clock
from joulebench.errors import UserError

if TYPE_CHECKING:
    from joulebench.gpu.reading import GpuSource
    from joulebench.gpu.spells import Spells

log = logging.getLogger(__name__)

MAX_GPUS = 64
RECOVERING = "recovering"


def configure(gpu: argparse._ArgumentGroup) -> None:
    from joulebench.gpu.simulated import SCENARIOS

    gpu.add_argument(
        "--simulated.gpus", dest="simulated_gpus", metavar="N", type=int, default=1, help="how many (default: %(default)s)"
    )
    gpu.add_argument(
        "--simulated.scenario",
        dest="simulated_scenario",
        choices=SCENARIOS,
        default="steady",
        help="steady: the first GPU is as busy as this machine's CPUs; overheating: the last one slows itself down now and then;"
        " recovering: it does so by a timetable, every five minutes, and cools in between (default: %(default)s)",
    )
    gpu.add_argument(
        "--simulated.spell-seconds",
        dest="spell_seconds",
        metavar="SECONDS",
        type=float,
        help="how long heat slows it down each time in scenario recovering (default: 45)",
    )
    gpu.add_argument(
        "--simulated.begin",
        dest="spells_begin",
        metavar="UNIXTIME",
        type=float,
        help="when the timetable of scenario recovering begins; the first slowdown comes 30 s later (default: now)",
    )


def check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that cannot be used."""
    if not 1 <= args.simulated_gpus <= MAX_GPUS:
        raise UserError(f"--simulated.gpus: {args.simulated_gpus} is not between 1 and {MAX_GPUS}")
    given = [value for value in (args.spell_seconds, args.spells_begin) if value is not None]
    if not all(map(math.isfinite, given)):
        raise UserError("--simulated.spell-seconds and --simulated.begin: give finite numbers of seconds")
    if given and args.simulated_scenario != RECOVERING:
        raise UserError(f"--simulated.spell-seconds and --simulated.begin: need --simulated.scenario={RECOVERING} beside them")


def source(args: argparse.Namespace, clock: Clock) -> GpuSource:
    from joulebench.gpu.simulated import SimulatedSource

    log.warning("GPU source is simulated: no number of it is a measurement")
    spells = _spells(args, clock) if args.simulated_scenario == RECOVERING else None
    return SimulatedSource(args.simulated_gpus, args.simulated_scenario, clock, spells=spells)


def _spells(args: argparse.Namespace, clock: Clock) -> Spells:
    from joulebench.gpu.spells import ONSET, PERIOD_SECONDS, Spells

    begin = clock.unix() if args.spells_begin is None else args.spells_begin
    spells = Spells(begin=begin) if args.spell_seconds is None else Spells(args.spell_seconds, begin)
    log.info(
        "heat slows GPU %d down from unix time %.3f on for %g s, and again every %g s",
        args.simulated_gpus - 1,
        begin + ONSET,
        spells.length,
        PERIOD_SECONDS,
    )
    return spells
