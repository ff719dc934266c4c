"""Failure prediction and doubts for the report: a risk for each task, what the risks are worth, and the worst calls."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from joulebench.analysis.prediction import failures, records
from joulebench.analysis.prediction.doubts import doubts
from joulebench.analysis.prediction.show_failures import as_values
from joulebench.errors import UserError


def read(directories: Iterable[Path]) -> dict[str, Any]:
    """``note`` says why there are no predictions at all, where there are none."""
    tasks = records.read(list(directories))
    try:
        predicted, note = failures.predictions(tasks), ""
    except UserError as error:
        predicted, note = [], str(error)
    return {"note": note, **as_values(predicted, doubts(tasks))}
