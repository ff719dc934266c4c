"""What Prometheus answers to every query of every dashboard for one stretch of time, asked as Grafana would ask it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.dashboard_queries import VALUES, panels_of, substituted

DRAWN_POINTS = 900
SCRAPE_SECONDS = 1


@dataclass(frozen=True)
class Stretch:
    """Unix seconds, whole."""

    start: int
    end: int

    def step(self, points: int) -> int:
        """Seconds between two points, as many as a panel asks for at most."""
        return max(SCRAPE_SECONDS, -(-(self.end - self.start) // points))

    def grafana_values(self, step: int) -> dict[str, str]:
        return {
            "__from": str(self.start * 1000),
            "__to": str(self.end * 1000),
            "__range": f"{self.end - self.start}s",
            "__interval": f"{step}s",
            "__rate_interval": f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
        }


class Asker:
    """``variables``: chosen values by name; all others stand at their default, which is all."""

    def __init__(self, url: str, stretch: Stretch, variables: Mapping[str, str]) -> None:
        self._url, self._stretch, self._variables = url, stretch, {**VALUES, **variables}

    def board(self, board: Mapping[str, Any]) -> dict[str, Any]:
        """{"from", "to" (ms), "variables", "panels": {id: {"step" (ms), "answers": {refId: result}}}, "marks": {name: result}}"""
        panels = {str(panel["id"]): self._panel(panel) for panel in panels_of(board)}
        return {
            "from": self._stretch.start * 1000,
            "to": self._stretch.end * 1000,
            "variables": {"datasource": "prometheus", **self._variables, **self._stretch.grafana_values(1)},
            "panels": panels,
            "marks": dict(self._marks(board)),
        }

    def _panel(self, panel: Mapping[str, Any]) -> dict[str, Any]:
        least = int(panel.get("interval", f"{SCRAPE_SECONDS}s").removesuffix("s"))
        step = max(least, self._stretch.step(panel.get("maxDataPoints", DRAWN_POINTS)))
        answers = {target["refId"]: self._ask(target["expr"], step, target["instant"]) for target in panel["targets"]}
        return {"step": step * 1000, "answers": answers}

    def _marks(self, board: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for mark in board["annotations"]["list"]:
            if "expr" in mark:
                yield mark["name"], self._ask(mark["expr"], self._stretch.step(DRAWN_POINTS), False)

    def _ask(self, expr: str, step: int, instant: bool) -> Any:
        query = substituted(expr, {**self._variables, **self._stretch.grafana_values(step)})
        if instant:
            return self._post("query", {"query": query, "time": str(self._stretch.end)})
        # The grid of steps that Grafana asks for lies on multiples of the step.
        start = self._stretch.start // step * step
        return self._post("query_range", {"query": query, "start": str(start), "end": str(self._stretch.end), "step": str(step)})

    def _post(self, path: str, form: Mapping[str, str]) -> Any:
        try:
            with urlopen(f"{self._url}/api/v1/{path}", urlencode(form).encode(), timeout=60) as answer:
                return json.load(answer)["data"]["result"]
        except HTTPError as error:
            with error:
                raise AssertionError(f"{error.read().decode()}: {form['query']}") from error
