"""Runs the README's commands and the wheel on fresh machines and prints who ran what, in how many seconds.

Exit status 1 where one of them failed; 0 with "skipped: why" where no such machine can be made, but on CI that is a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fresh_machine.machine import NEWCOMER, PROJECT, FreshMachine, base_system, why_not

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / ".build" / "fresh-machine"
TASKS = 18
LIMIT_SECONDS = 600.0
QUARTER = "tests/contract tests/unit/energy tests/unit/gpu tests/unit/stack"
"""The part of the test suite that runs here: what compiles the fake NVML, starts programs and reads the package's own files."""


@dataclass(frozen=True, slots=True)
class Step:
    """``check`` looks at the machine and the log afterwards and returns what is wrong, None for nothing."""

    user: str
    label: str
    command: str
    check: Callable[[FreshMachine, str], str | None] = lambda _machine, _log: None
    environment: tuple[tuple[str, str], ...] = ()


def rows_of_demo(folder: str, expected: int) -> Callable[[FreshMachine, str], str | None]:
    def check(machine: FreshMachine, _log: str) -> str | None:
        tables = sorted(Path(f"{machine.root}{folder}").glob("runs/demo-*/results.csv"))
        rows = len(tables[-1].read_text(encoding="utf-8").splitlines()) - 1 if tables else 0
        return None if rows == expected else f"results.csv has {rows} rows, not {expected}"

    return check


def ends_tests(_machine: FreshMachine, log: str) -> str | None:
    return None if " passed" in log else "pytest printed no result"


DEMO = rows_of_demo(PROJECT, TASKS)
HOME = f"/home/{NEWCOMER}"
WHEEL = (
    f"python3 -m venv {HOME}/venv && mkdir {HOME}/empty {HOME}/wheel"
    f" && {HOME}/venv/bin/pip wheel --quiet --no-deps -w {HOME}/wheel {PROJECT}"
    f" && ls -l {HOME}/wheel && {HOME}/venv/bin/pip install --quiet $(ls {HOME}/wheel/*.whl)'[demo]'"
    # Whatever writes into the installation now, fails.
    f" && chmod -R a-w {HOME}/venv && rm -rf {PROJECT}/exporter"
)
AWAY = f"cd {HOME}/empty && export PATH={HOME}/venv/bin:$PATH"
MACHINES: dict[str, Sequence[Step]] = {
    "root": (
        Step("root", "make demo", "make demo", DEMO),
        Step("root", "make demo, again, one task", "make demo DEMO_FLAGS='--tasks read-note'", rows_of_demo(PROJECT, 1)),
    ),
    "user": (
        Step(NEWCOMER, "make demo", "make demo", DEMO),
        Step(
            NEWCOMER,
            "make test, a quarter, in random order",
            f"make test TESTS='{QUARTER}'",
            ends_tests,
            (("PYTEST_ADDOPTS", "-p randomly"),),
        ),
    ),
    "wheel": (
        Step(NEWCOMER, "pip install of the wheel", WHEEL),
        Step(
            NEWCOMER, "joulebench demo, four tasks", f"{AWAY} && joulebench demo --tasks 're*'", rows_of_demo(f"{HOME}/empty", 4)
        ),
        Step(
            NEWCOMER,
            "joulebench up, stack files, down",
            f"{AWAY} && joulebench up --gpu-source simulated && joulebench stack files mine"
            " && test -s mine/dashboards/llm-live.json && joulebench down",
        ),
        Step(NEWCOMER, "joulebench --version", f"{AWAY} && joulebench --version"),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fresh_machine", description=__doc__)
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"some of {', '.join(MACHINES)} (default: all)")
    chosen = parser.parse_args().machines or list(MACHINES)
    # An ordinary end, so that the running machine is stopped and its folder removed.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    on_ci = os.environ.get("CI") == "true"
    if on_ci:
        install_mmdebstrap()
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return 1 if on_ci else 0
    if subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, check=True).stdout:
        print("note: what is not committed is not tested: the machines clone the last commit")
    shutil.rmtree(REPORT, ignore_errors=True)
    REPORT.mkdir(parents=True)
    base = base_system(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "joulebench" / "fresh-machine")
    rows: list[tuple[str, str, str, str]] = []
    for name in chosen:
        with FreshMachine(base, ROOT) as machine:
            machine.give_to(MACHINES[name][0].user)
            for number, step in enumerate(MACHINES[name], 1):
                rows.append(run(machine, step, REPORT / f"{name}-{number}.log"))
                print("  ".join(rows[-1]), flush=True)
                if rows[-1][3] != "ok":
                    break
    table = "\n".join(f"| {' | '.join(row)} |" for row in (("who", "command", "seconds", "result"), ("---",) * 4, *rows))
    (REPORT / "table.md").write_text(table + "\n", encoding="utf-8")
    failed = sum(row[3] != "ok" for row in rows)
    print(f"\n{table}\n\n{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(machine: FreshMachine, step: Step, log: Path) -> tuple[str, str, str, str]:
    began = time.monotonic()
    status = machine.run(step.user, step.command, log, seconds=LIMIT_SECONDS, **dict(step.environment))
    seconds = time.monotonic() - began
    text = log.read_text(encoding="utf-8", errors="replace")
    problem = f"exit status {status}" if status != 0 else step.check(machine, text)
    if problem is not None:
        print(f"--- the end of {log}:\n{text[-6000:]}\n---")
    who = "root" if step.user == "root" else "user without sudo"
    return who, step.label, f"{seconds:.1f}", problem or "ok"


def install_mmdebstrap() -> None:
    """CI starts on machines that are new, too."""
    if shutil.which("mmdebstrap") is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap"], check=False)


if __name__ == "__main__":
    sys.exit(main())
