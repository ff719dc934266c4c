"""Joules of a profile from an exporter: of all windows and GPUs together, and not known as soon as one of them is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from joulebench.cli.diagnostics import energy
from joulebench.profile.measure import Phase, Work, profile
from tests.unit.profile.scripted import HandClock, ScriptedModel, layered


class Exporter(BaseHTTPRequestHandler):
    """Two GPUs of 100 W and 50 W; ``unknown``: whether the second one does not tell."""

    unknown = False

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        seconds = float(asked["end"][0]) - float(asked["start"][0])
        gpus = [self.gpu(0, 100 * seconds), self.gpu(1, None if self.unknown else 50 * seconds)]
        body = json.dumps({"start": 0, "end": 0, "gpus": gpus, "total": {}, "source": "simulated"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def gpu(index: int, joules: float | None) -> dict[str, object]:
        bounds = (None, None) if joules is None else (0.9 * joules, 1.1 * joules)
        return {"gpu": str(index), "uuid": f"GPU-{index}", "joules": joules, "low": bounds[0], "high": bounds[1], "quality": "ok"}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


class Forgetful(Exporter):
    unknown = True


@pytest.fixture
def exporter(request: pytest.FixtureRequest) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def phases() -> list[Phase]:
    clock = HandClock()
    return profile(ScriptedModel(clock, *layered(2, 0.01, 0.01)), Work(4, 3, 2), clock)


@pytest.mark.parametrize("exporter", [Exporter], indirect=True)
def test_joules_are_those_of_all_windows_and_gpus(exporter: str) -> None:
    measured = phases()
    found = energy(exporter, measured)
    for phase in measured:
        seconds = sum(end - start for start, end in phase.windows)
        one = found[phase.name]
        assert one.joules == pytest.approx(150 * seconds)
        assert one.low == pytest.approx(135 * seconds)
        assert one.high == pytest.approx(165 * seconds)
        assert one.source == "simulated"


@pytest.mark.parametrize("exporter", [Forgetful], indirect=True)
def test_a_gpu_that_does_not_tell_leaves_the_sum_unknown(exporter: str) -> None:
    assert {one.joules for one in energy(exporter, phases()).values()} == {None}


def test_no_exporter_is_told_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert energy("http://127.0.0.1:9", phases()) == {}
    assert "no joules" in capsys.readouterr().err
