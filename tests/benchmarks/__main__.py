"""``python -m tests.benchmarks``: all parts, or the ones named by ``--only``."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from joulebench.clock import SystemClock
from tests.benchmarks.report import Report
from tests.contract.sources import ROOT as CHECKOUT

PARTS = ("accuracy", "cost", "push", "instrument", "export", "proxy", "monitor", "intervals", "report", "launcher", "owners")
ON_DEMAND = ("export_speed", "annotate_speed", "boards", "scale")
"""Parts that take minutes to set up; only where they are named."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Print the benchmarks.")
    parser.add_argument(
        "--only", action="append", choices=(*PARTS, *ON_DEMAND), help="this part; may be given again (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=75.0, help="length of the accuracy run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the power curves (default: %(default)s)")
    parser.add_argument("--ramp", type=float, default=0.0, help="milliseconds that power takes to change (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=2.0, help="of stored samples to export from (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=CHECKOUT / ".build" / "bench" / "report.txt")
    arguments = parser.parse_args()
    clock = SystemClock()
    with Report(arguments.report) as report:
        report.machine(clock)
        for part in arguments.only or PARTS:
            match part:
                case "accuracy":
                    from tests.benchmarks import accuracy, late_counters

                    late_counters.run(report, arguments.seed)
                    accuracy.run(report, clock, seconds=arguments.seconds, seed=arguments.seed, ramp=arguments.ramp / 1000)
                case "cost":
                    from tests.benchmarks import cost

                    cost.run(report, clock)
                case "report":
                    from tests.benchmarks import report_cost

                    report_cost.run(report, clock)
                case "intervals":
                    from tests.benchmarks import intervals

                    intervals.run(report, clock)
                case "push":
                    from tests.benchmarks import push_cost

                    push_cost.run(report, clock)
                case "instrument":
                    from tests.benchmarks import instrument_cost

                    instrument_cost.run(report, clock)
                case "proxy":
                    from tests.benchmarks import proxy_cost

                    proxy_cost.run(report, clock)
                case "monitor":
                    from tests.benchmarks import monitor_rows

                    monitor_rows.run(report, clock)
                case "launcher":
                    from tests.benchmarks import launcher_cost

                    launcher_cost.run(report, clock)
                case "owners" | "boards" | "export_speed" | "annotate_speed" | "scale":
                    importlib.import_module(f"tests.benchmarks.{part}").run(report, clock)
                case "export":
                    from tests.benchmarks import export_cost

                    export_cost.run(report, clock, arguments.hours)
        report.verdict()
        report.say(f"load average at the end {os.getloadavg()[0]:.2f}\nwritten to {report.file}")


if __name__ == "__main__":
    main()
