"""Where the outside programs are: Prometheus, promtool, Pushgateway and Alertmanager, under the names that packages give them.

Searched in this order: the folder in ``JOULEBENCH_PROGRAMS``, ``PATH``, and the checkout's ``.build/programs``, which
``make setup`` fills where the system has none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from joulebench.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[3]

NAMES: dict[str, tuple[str, ...]] = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "pushgateway": ("pushgateway", "prometheus-pushgateway"),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "victoriametrics": ("victoria-metrics", "victoria-metrics-prod"),
}


def find(program: str) -> Path | None:
    places = [os.environ.get("JOULEBENCH_PROGRAMS"), os.environ.get("PATH"), str(CHECKOUT / ".build/programs/usr/bin")]
    for place in places:
        for name in NAMES[program]:
            found = shutil.which(name, path=place) if place else None
            if found:
                return Path(found)
    return None


def require(program: str) -> Path:
    found = find(program)
    if found is None:
        raise UserError(f"{program} is not installed; 'make setup' unpacks it here, or put it on PATH")
    return found


def checkout_file(relative: str) -> Path:
    """A file of the repository; the stack is configured by the same files that the containers mount."""
    path = CHECKOUT / relative
    if not path.exists():
        raise UserError(f"{path} is missing; this command needs a clone of the repository, not only the installed package")
    return path
