"""The other tools, pinned, in environments of their own under ``.build``: nothing of them enters the project's environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.contract.sources import ROOT as CHECKOUT

ZEUS, NVITOP_EXPORTER = "zeus==0.16.0", "nvitop-exporter==1.7.2"
DIRECTORY = CHECKOUT / ".build" / "bench-venv"
INSTALL_SECONDS = 420


@dataclass(frozen=True, slots=True)
class Peer:
    """``bin`` is None where the peer could not be installed; ``why`` then says so."""

    requirement: str
    bin: Path | None
    why: str = ""

    @property
    def title(self) -> str:
        return self.requirement.replace("==", " ")


def install(requirement: str, module: str) -> Peer:
    """Once: what is installed already is left as it is. ``module`` has to import, or the peer counts as not installed."""
    place = DIRECTORY / requirement.partition("==")[0]
    done = place / f".{requirement}"
    if not done.exists():
        try:
            _run([sys.executable, "-m", "venv", "--clear", str(place)])
            pip = [str(place / "bin" / "python"), "-m", "pip"]
            _run([*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input", requirement])
        except (OSError, subprocess.SubprocessError) as error:
            return Peer(requirement, None, f"cannot be installed: {_told(error)}")
        done.touch()
    try:
        _run([str(place / "bin" / "python"), "-c", f"import {module}"])
    except (OSError, subprocess.SubprocessError) as error:
        return Peer(requirement, None, f"is installed but cannot be imported: {_told(error)}")
    return Peer(requirement, place / "bin")


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)


def _told(error: Exception) -> str:
    said = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
    return str(said[-1]) if said else str(error)
