"""Children end with their parent's wish: gently where they listen, surely where they do not, and with all they started."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from joulebench.bench.task_range.children import Child
from joulebench.clock import SystemClock, wait_until

STUBBORN = """
import signal, subprocess, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(60)"])
print(own.pid, flush=True)
threading.Event().wait(60)
"""


def python(tmp_path: Path, code: str) -> Child:
    return Child([sys.executable, "-c", code], tmp_path / "log", signal.SIGINT)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_code_is_told_once_it_is_there(tmp_path: Path, code: int) -> None:
    with python(tmp_path, f"import sys; print('said'); sys.exit({code})") as child:
        assert child.wait(20.0, SystemClock(), threading.Event()) == code
    assert child.exit_code == code
    assert (tmp_path / "log").read_text() == "said\n"


def test_waiting_ends_with_time_and_with_an_interruption(tmp_path: Path) -> None:
    with python(tmp_path, "import threading; threading.Event().wait(60)") as child:
        assert child.wait(0.1, SystemClock(), threading.Event()) is None
        interrupted = threading.Event()
        interrupted.set()
        assert child.wait(60.0, SystemClock(), interrupted) is None
    assert child.exit_code is not None


def test_a_child_that_listens_ends_in_its_own_way(tmp_path: Path) -> None:
    code = (
        "import threading\ntry:\n  print('up', flush=True); threading.Event().wait(60)\nexcept KeyboardInterrupt:\n  print('bye')"
    )
    with python(tmp_path, code):
        assert wait_until(lambda: (tmp_path / "log").read_text() == "up\n", 20.0)
    assert (tmp_path / "log").read_text() == "up\nbye\n"


def test_one_that_does_not_listen_ends_with_all_it_started(tmp_path: Path) -> None:
    child = python(tmp_path, STUBBORN)
    with child:
        assert wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"), 20.0)
        own = int((tmp_path / "log").read_text())
        child.end(grace=0.3)
    assert child.exit_code == -signal.SIGKILL
    assert wait_until(lambda: not alive(own), 5.0)
