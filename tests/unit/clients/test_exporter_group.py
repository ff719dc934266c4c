"""Several exporters asked as one: each for its own devices, and never a total without a host that should be in it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from joulebench.clients.exporter import EnergyAnswer, EnergyWindow, ExporterGroup
from joulebench.clock import ClockOffset, SystemClock
from joulebench.devices import DeviceChoice
from joulebench.errors import EnergyApiError, EnergyRefused, UserError
from joulebench.settings import Url
from joulebench.units import Seconds

START, END = Seconds(1000.0), Seconds(1010.0)


class Host:
    """An exporter with GPUs of fixed joules. ``serving``: UUIDs that it observes for any server or job. ``ahead``: seconds of
    its clock, which its answers show where it is not None. ``refuses_many``: status of requests for many windows, 0 for none.
    ``mig``: UUIDs of MIG instances, each a seventh of its first GPU."""

    def __init__(
        self,
        joules: Mapping[str, float | None],
        serving: tuple[str, ...] = (),
        ahead: float | None = None,
        mig: tuple[str, ...] = (),
    ) -> None:
        self.joules = joules
        self.mig = mig
        self.serving = serving
        self.ahead = ahead
        self.windows: list[tuple[float, float]] = []
        self.questions: list[dict[str, str]] = []
        self.gets = self.posts = 0
        self.refuses_many = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, question: Mapping[str, str]) -> dict[str, Any]:
        basis, chosen = "assumed", list(self.joules)
        if "gpus" in question:
            names = question["gpus"].split(",")
            basis, chosen = "declared", [list(self.joules)[int(name)] if name.isdecimal() else name for name in names]
        elif self.serving and question.keys() & {"server", "job"}:
            basis, chosen = "observed", list(self.serving)
        gpus = [self._gpu(uuid) for uuid in chosen]
        known = [gpu["joules"] for gpu in gpus if gpu["joules"] is not None]
        joules = sum(known) if len(known) == len(gpus) else None
        total: dict[str, Any] = {
            "joules": joules,
            "low": joules,
            "high": joules,
            "quality": "ok" if joules else "missing",
            "reasons": [],
        }
        mig = [{"uuid": instance, "parent": next(iter(self.joules)), "profile": "1g.5gb"} for instance in self.mig]
        return {"start": START, "end": END, "basis": basis, "gpus": gpus, "mig": mig, "total": total, "source": "nvml"}

    def _gpu(self, uuid: str) -> dict[str, Any]:
        if uuid in self.mig:
            part = next(value for value in self.joules.values() if value is not None) / 7
            return {"gpu": "0", "uuid": uuid, "joules": part, "low": 0.0, "high": 7 * part, "quality": "suspect", "reasons": []}
        joules, index = self.joules[uuid], list(self.joules).index(uuid)
        return {"gpu": str(index), "uuid": uuid, "joules": joules, "low": joules, "high": joules, "quality": "ok", "reasons": []}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

            def do_POST(self) -> None:
                lines = self.rfile.read(int(self.headers["Content-Length"])).decode().split("\n")
                host.posts += 1
                if host.refuses_many:
                    self._send(host.refuses_many, b"no such method")
                    return
                answers = [self._answer(line) for line in lines]
                self._send(200, json.dumps({"answers": [{"status": status, "body": body} for status, body in answers]}).encode())

            def do_GET(self) -> None:
                host.gets += 1
                status, answer = self._answer(urlsplit(self.path).query)
                self._send(status, json.dumps(answer).encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _answer(self, query: str) -> tuple[int, dict[str, Any]]:
                question = {key: values[0] for key, values in parse_qs(query).items()}
                now = time.time() + (host.ahead or 0.0)
                host.windows.append((float(question["start"]), float(question["end"])))
                host.questions.append({key: question[key] for key in question if key not in ("start", "end", "wait")})
                is_refused = (host.ahead is not None and float(question["end"]) > now + 2) or question.get("gpus") == "9"
                answer: dict[str, Any] = {"error": "no such window"} if is_refused else host.answer(question)
                if host.ahead is not None:
                    answer["clock"] = {"received": now, "answered": time.time() + host.ahead}
                return 400 if is_refused else 200, answer

        return Handler


A = {"GPU-a0": 10.0, "GPU-a1": 20.0, "GPU-a2": 400.0}
B = {"GPU-b0": 3.0, "GPU-b1": 4.0}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, joules: Mapping[str, float | None], serving: tuple[str, ...] = ()) -> Host:
    host = Host(joules, serving)
    stack.callback(host.stop)
    return host


def group(stack: ExitStack, *hosts: str, choice: DeviceChoice | None = None) -> ExporterGroup:
    urls = [Url.parse(f"http://{host}", "test") for host in hosts]
    made = ExporterGroup(urls, choice or DeviceChoice(), SystemClock(), timeout=2.0)
    stack.callback(made.close)
    return made


def ask(exporters: ExporterGroup) -> EnergyAnswer:
    return exporters.energy(START, END)


def declared(names: str) -> DeviceChoice:
    return DeviceChoice.from_settings(names, environ={})


def test_a_mig_instance_is_found_on_its_host_and_listed_with_the_gpus(stack: ExitStack) -> None:
    a, b = Host(A, mig=("MIG-7a", "MIG-7b")), start(stack, B)
    stack.callback(a.stop)
    answer = ask(group(stack, a.name, b.name, choice=declared("MIG-7b")))
    assert [(gpu["host"], gpu["uuid"]) for gpu in answer.raw_gpus] == [(a.name, "MIG-7b")]
    assert answer.basis == "declared"
    with pytest.raises(UserError, match=r"MIG-7 matches 2 GPUs.*0 \(MIG-7a\)"):
        group(stack, a.name, b.name, choice=declared("MIG-7")).check()


def test_hosts_are_added_up_and_each_gpu_names_its_host(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, B)
    answer = ask(group(stack, a.name, b.name))
    assert answer.raw_total["joules"] == 437.0
    assert [(gpu["host"], gpu["uuid"]) for gpu in answer.raw_gpus] == [
        *((a.name, uuid) for uuid in A),
        *((b.name, uuid) for uuid in B),
    ]
    assert answer.basis == "assumed"


def test_declared_devices_are_asked_of_their_own_hosts(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, B)
    answer = ask(group(stack, a.name, b.name, choice=declared(f"GPU-a0,GPU-a1,{b.name}:0,GPU-b1")))
    assert answer.raw_total["joules"] == 37.0
    assert answer.basis == "declared"
    assert (a.questions[-1], b.questions[-1]) == ({"gpus": "GPU-a0,GPU-a1"}, {"gpus": "GPU-b0,GPU-b1"})


def test_a_host_without_a_declared_device_is_not_asked(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, B)
    answer = ask(group(stack, a.name, b.name, choice=declared("GPU-b0")))
    assert answer.raw_total["joules"] == 3.0
    assert a.questions == [{}], "for its list of devices only"


def test_a_host_that_is_gone_makes_the_total_unknown_and_never_smaller(stack: ExitStack) -> None:
    a, gone = start(stack, A), Host(B)
    name = gone.name
    exporters = group(stack, a.name, name)
    assert ask(exporters).raw_total["joules"] == 437.0
    gone.stop()
    answer = ask(exporters)
    assert (answer.raw_total["joules"], answer.raw_total["high"], answer.raw_total["quality"]) == (None, None, "missing")
    assert answer.raw_total["low"] == 430.0
    assert answer.raw_total["reasons"] == ["host_missing"]
    assert answer.missing_hosts == (name,)


def test_a_declared_device_that_no_answering_host_has_may_be_one_of_the_silent_host(stack: ExitStack) -> None:
    a, gone = start(stack, A), Host(B)
    name = gone.name
    gone.stop()
    answer = ask(group(stack, a.name, name, choice=declared("GPU-a0,GPU-b0")))
    assert answer.raw_total["joules"] is None
    assert answer.missing_hosts == (name,)
    whole = ask(group(stack, a.name, name, choice=declared("GPU-a0,GPU-a1")))
    assert (whole.raw_total["joules"], whole.missing_hosts) == (30.0, ())


def test_no_host_that_answers_is_an_error_to_be_tried_again(stack: ExitStack) -> None:
    gone = Host(A)
    gone.stop()
    with pytest.raises(EnergyApiError) as failed:
        ask(group(stack, gone.name, gone.name.replace("127.0.0.1", "localhost")))
    assert not isinstance(failed.value, EnergyRefused)


@pytest.mark.parametrize(
    ("names", "message"), [("GPU-zz", "gpus: GPU-zz matches no GPU; there are: "), ("0", "gpus: 0 matches 2 GPUs; put the host")]
)
def test_a_name_that_means_none_or_two_is_an_error_at_the_start_and_later(stack: ExitStack, names: str, message: str) -> None:
    a, b = start(stack, A), start(stack, B)
    exporters = group(stack, a.name, b.name, choice=declared(names))
    with pytest.raises(UserError) as refused:
        exporters.check()
    assert str(refused.value).startswith(message)
    assert f"{b.name}:1 (GPU-b1)" in str(refused.value)
    with pytest.raises(EnergyRefused):
        ask(exporters)


def test_where_one_host_observes_the_server_the_others_have_no_part(stack: ExitStack) -> None:
    a, b = start(stack, A, ("GPU-a1",)), start(stack, B)
    answer = ask(group(stack, a.name, b.name, choice=DeviceChoice(server="http://127.0.0.1:11434")))
    assert (answer.basis, answer.raw_total["joules"]) == ("observed", 20.0)
    assert a.questions == b.questions == [{"server": "127.0.0.1:11434"}]


def test_hosts_that_are_used_unequally_are_never_ok_as_an_assumption(stack: ExitStack) -> None:
    busy, idle, as_busy = start(stack, {"GPU-c0": 3000.0}), start(stack, {"GPU-d0": 200.0}), start(stack, {"GPU-e0": 2800.0})
    answer = ask(group(stack, busy.name, idle.name))
    assert (answer.basis, answer.raw_total["joules"]) == ("assumed", 3200.0)
    for judged in (answer.raw_total, *answer.raw_gpus):
        assert (judged["quality"], judged["reasons"]) == ("suspect", ["devices_assumed"])
    assert [gpu.quality for gpu in answer.gpus] == ["suspect", "suspect"]
    assert ask(group(stack, busy.name, as_busy.name)).raw_total["quality"] == "ok"


def test_a_server_that_may_be_on_either_of_two_hosts_is_on_none(stack: ExitStack) -> None:
    a, b = start(stack, A, ("GPU-a1",)), start(stack, B, ("GPU-b0",))
    answer = ask(group(stack, a.name, b.name, choice=DeviceChoice(server="10.0.0.5:8000")))
    assert (answer.basis, answer.raw_total["joules"]) == ("assumed", 437.0)
    assert (answer.raw_total["quality"], answer.raw_total["reasons"]) == ("suspect", ["devices_assumed"])
    # Two exporters of the server's own machine may each have some of its GPUs.
    answer = ask(group(stack, a.name, b.name, choice=DeviceChoice(server="127.0.0.1:8000")))
    assert (answer.basis, answer.raw_total["joules"], answer.raw_total["quality"]) == ("observed", 23.0, "ok")


@pytest.mark.parametrize("gpus", [None, "GPU-a1"])
def test_the_credentials_of_a_server_are_not_sent_to_an_exporter(stack: ExitStack, gpus: str | None) -> None:
    host = start(stack, A, ("GPU-a1",))
    choice = DeviceChoice.from_settings(gpus, "http://user:secret@[::1]:8000/v1", environ={})
    ask(group(stack, host.name, choice=choice))
    assert host.questions[-1]["server"] == "[::1]:8000"
    assert choice.as_json()["server"] == "[::1]:8000"
    assert "secret" not in str(host.questions)


def test_a_slurm_job_is_looked_for_on_every_host(stack: ExitStack) -> None:
    a, b = start(stack, A, ("GPU-a0",)), start(stack, B, ("GPU-b0", "GPU-b1"))
    choice = DeviceChoice.from_settings(environ={"SLURM_JOB_ID": "42"})
    answer = ask(group(stack, a.name, b.name, choice=choice))
    assert (answer.basis, answer.raw_total["joules"]) == ("observed", 17.0)
    assert a.questions == b.questions == [{"job": "42"}]


@pytest.mark.parametrize(
    ("environ", "joules"),
    [
        ({"SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}, 30.0),
        ({"SLURM_JOB_GPUS": "1", "CUDA_VISIBLE_DEVICES": "0"}, 20.0),  # 0 within the cgroup of the job
        ({"CUDA_VISIBLE_DEVICES": "GPU-a1,GPU-a0"}, 30.0),
        ({"SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "GPU-a1"}, 30.0),  # the benchmark's own choice
        ({"CUDA_VISIBLE_DEVICES": "0"}, 430.0),
        ({"SLURM_JOB_GPUS": "0", "SLURM_JOB_NUM_NODES": "2"}, 430.0),
        ({"SLURM_JOB_GPUS": "9"}, 430.0),  # refused, as no such GPU is there
        ({}, 430.0),
    ],
)
def test_what_slurm_gave_to_a_job_counts_where_no_process_of_it_is_found(
    stack: ExitStack, environ: dict[str, str], joules: float
) -> None:
    """Without cgroups the job is nowhere to be seen."""
    host = start(stack, A)
    answer = ask(group(stack, host.name, choice=DeviceChoice.from_settings(environ={"SLURM_JOB_ID": "42", **environ})))
    assert (answer.raw_total["joules"], answer.basis) == (joules, "assumed" if joules == 430.0 else "declared")
    seen = start(stack, A, ("GPU-a2",))
    answer = ask(group(stack, seen.name, choice=DeviceChoice.from_settings(environ={"SLURM_JOB_ID": "42", **environ})))
    assert (answer.raw_total["joules"], answer.basis) == (400.0, "observed")


def test_a_job_of_several_nodes_counts_on_all_of_them_although_its_server_is_on_one(stack: ExitStack) -> None:
    environ = {"SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2"}
    choice = DeviceChoice.from_settings(server="127.0.0.1:8000", environ=environ)
    a, b = start(stack, A, ("GPU-a0",)), start(stack, B, ("GPU-b0", "GPU-b1"))
    assert ask(group(stack, a.name, b.name, choice=choice)).raw_total["joules"] == 17.0
    assert a.questions == b.questions == [{"job": "42"}]
    assert ask(group(stack, a.name, choice=choice)).raw_total["joules"] == 10.0
    assert a.questions[-1] == {"server": "127.0.0.1:8000"}
    a.serving = b.serving = ()
    assert ask(group(stack, a.name, b.name, choice=choice)).basis == "assumed"
    assert a.questions[-1] == {"server": "127.0.0.1:8000"}, "no process of the job is found, so its server is looked for"
    one_node = DeviceChoice.from_settings(server="127.0.0.1:8000", environ={"SLURM_JOB_ID": "42"})
    assert one_node.job is None


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": "GPU-a1"}, {"SLURM_JOB_GPUS": "1"}])
def test_variables_of_cuda_without_a_job_change_nothing(stack: ExitStack, environ: dict[str, str]) -> None:
    host = start(stack, A)
    answer = ask(group(stack, host.name, choice=DeviceChoice.from_settings(environ=environ)))
    assert (answer.raw_total["joules"], answer.basis) == (430.0, "assumed")


@pytest.mark.parametrize("visible", ["", "0", "GPU-a1", "-1", "NoDevFiles"])
@pytest.mark.parametrize("job", [{}, {"SLURM_JOB_ID": "42", "SLURM_JOB_GPUS": "0,1"}])
def test_what_cuda_sees_in_the_benchmark_chooses_no_device_beside_a_server(job: dict[str, str], visible: str) -> None:
    plain = DeviceChoice.from_settings(server="127.0.0.1:8000", environ=job)
    assert DeviceChoice.from_settings(server="127.0.0.1:8000", environ={**job, "CUDA_VISIBLE_DEVICES": visible}) == plain


def test_a_gpu_of_unknown_energy_makes_the_total_unknown(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, {"GPU-b0": None})
    assert ask(group(stack, a.name, b.name)).raw_total["joules"] is None


def test_the_choice_comes_from_arguments_first_and_the_environment_second() -> None:
    environ = {"JOULEBENCH_GPUS": "GPU-5c1d", "JOULEBENCH_SERVER_URL": "http://box:8000", "SLURM_JOB_ID": "42"}
    assert DeviceChoice.from_settings("0", environ=environ).gpus[0].name == "0"
    by_environment = DeviceChoice.from_settings(environ=environ)
    assert (str(by_environment.gpus[0]), by_environment.server, by_environment.job) == ("GPU-5c1d", "http://box:8000", None)
    assert DeviceChoice.from_settings(environ=by_environment.environment()) == by_environment
    with pytest.raises(UserError, match=r"^JOULEBENCH_GPUS: "):
        DeviceChoice.from_settings(environ={"JOULEBENCH_GPUS": "a card"})


# --- clocks of several hosts -----------------------------------------------------------------------------------------------


def just_ended(exporters: ExporterGroup) -> EnergyAnswer:
    now = time.time()
    return exporters.energy(Seconds(now - 5.0), Seconds(now))


@pytest.mark.parametrize("ahead", [3.0, -3.0])
def test_a_host_whose_clock_is_off_is_asked_in_its_own_time(stack: ExitStack, ahead: float) -> None:
    a, b = Host(A, ahead=0.0), Host(B, ahead=ahead)
    for host in (a, b):
        stack.callback(host.stop)
    exporters = group(stack, a.name, b.name)
    began = time.time()
    answer = just_ended(exporters)
    assert answer.raw_total["joules"] == 437.0
    assert b.windows[-1][1] - began == pytest.approx(ahead, abs=0.3)
    assert float(b.questions[-1]["clock_uncertainty"]) < 0.3
    offsets = {gpu["uuid"]: gpu.get("clock_offset_seconds") for gpu in answer.raw_gpus}
    assert offsets["GPU-b0"] == pytest.approx(ahead, abs=0.3)
    assert offsets["GPU-a0"] is None
    assert len(a.questions) == 1
    just_ended(exporters)
    assert (len(a.questions), len(b.questions)) == (2, 3), "the offset is known after the first question"


def test_a_clock_that_is_set_between_two_windows_makes_the_second_suspect_and_counts_from_then_on(stack: ExitStack) -> None:
    a, b = Host({"GPU-a0": 10.0}, ahead=0.0), Host({"GPU-b0": 9.0}, ahead=0.0)
    for host in (a, b):
        stack.callback(host.stop)
    exporters = group(stack, a.name, b.name)
    assert just_ended(exporters).raw_total["quality"] == "ok"
    b.ahead = 60.0
    answer = just_ended(exporters)
    assert (answer.raw_total["quality"], answer.raw_total["reasons"]) == ("suspect", ["clock_step"])
    assert {gpu["uuid"] for gpu in answer.raw_gpus if "clock_step" in gpu["reasons"]} == {"GPU-b0"}
    later = just_ended(exporters)
    assert later.raw_total["quality"] == "ok"
    assert b.windows[-1][1] - time.time() == pytest.approx(60.0, abs=0.5)


def test_the_only_exporter_on_this_machine_has_its_clock(stack: ExitStack) -> None:
    host = Host(A, ahead=3.0)
    stack.callback(host.stop)
    assert "clock_offset_seconds" not in just_ended(group(stack, host.name)).raw_gpus[0]
    assert len(host.questions) == 1


def test_an_offset_is_that_of_the_middle_of_the_exchange_and_uncertain_by_half_of_it() -> None:
    offset = ClockOffset.of_exchange(sent=100.0, elapsed=0.5, received=103.1, answered=103.2)
    assert offset is not None
    assert offset.seconds == pytest.approx(2.9)
    assert offset.uncertainty == pytest.approx(0.2)
    assert offset.is_certain
    assert offset.agrees_with(ClockOffset(3.15, 0.1))
    assert not offset.agrees_with(ClockOffset(3.3, 0.1))
    assert ClockOffset.of_exchange(100.0, 0.5, received=103.1, answered=110.0) is None, "set meanwhile"


# --- roles -----------------------------------------------------------------------------------------------------------------


def test_declared_roles_stand_beside_the_devices(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, B)
    choice = declared(f"GPU-a0=prefill,{b.name}:0=decode,GPU-b1=decode")
    assert choice.as_json()["gpus"] == ["GPU-a0=prefill", f"{b.name}:0=decode", "GPU-b1=decode"]
    answer = ask(group(stack, a.name, b.name, choice=choice))
    assert {gpu["uuid"]: gpu["role"] for gpu in answer.raw_gpus} == {"GPU-a0": "prefill", "GPU-b0": "decode", "GPU-b1": "decode"}


def test_a_device_of_two_roles_is_refused(stack: ExitStack) -> None:
    a = start(stack, A)
    with pytest.raises(UserError, match=r"gpus: .*GPU-a0\) is given two roles, prefill and decode; name it once"):
        group(stack, a.name, choice=declared("0=prefill,GPU-a0=decode")).check()
    with pytest.raises(UserError, match=r"gpus: '0=train' is not a GPU; .* =prefill or =decode"):
        declared("0=train")


WINDOWS = [EnergyWindow(Seconds(1000.0 + number), Seconds(1010.0 + number), (0.5 + number,)) for number in range(5)]


def ask_for_each(exporters: ExporterGroup) -> list[float | None]:
    answers = [exporters.energy(one.start, one.end, 0.5, one.cuts) for one in WINDOWS]
    return [answer.raw_total["joules"] for answer in answers]


def test_the_answers_of_many_windows_come_with_one_request_to_each_host(stack: ExitStack) -> None:
    a, b = start(stack, A), start(stack, B)
    exporters = group(stack, a.name, b.name)
    exporters.energy(START, END)  # shows whether the clocks differ
    exporters.fetch(WINDOWS, 0.5)
    assert ask_for_each(exporters) == [437.0] * 5
    for host in (a, b):
        assert (host.posts, host.gets) == (0, 6), "without a clock in the answers each window is asked for by itself"
    only = group(stack, a.name)
    only.fetch(WINDOWS, 0.5)
    assert ask_for_each(only) == [430.0] * 5
    assert (a.posts, a.gets) == (1, 6)
    assert a.windows[-5:] == [(one.start, one.end) for one in WINDOWS]
    assert [question["cuts"] for question in a.questions[-5:]] == [f"{one.cuts[0]:.5f}" for one in WINDOWS]


def test_many_windows_are_asked_for_in_the_time_of_each_hosts_clock(stack: ExitStack) -> None:
    a, b = Host(A, ahead=0.0), Host(B, ahead=-3.0)
    for host in (a, b):
        stack.callback(host.stop)
    exporters = group(stack, a.name, b.name)
    just_ended(exporters)
    gets = (a.gets, b.gets)
    now = Seconds(time.time())
    windows = [EnergyWindow(Seconds(now - 5.0), Seconds(now - number)) for number in range(3)]
    exporters.fetch(windows, 0.5)
    for one in windows:
        assert exporters.energy(one.start, one.end, 0.5).raw_total["joules"] == 437.0
    assert (a.posts, b.posts, a.gets, b.gets) == (1, 1, *gets)
    assert b.windows[-1][1] - windows[-1].end == pytest.approx(-3.0, abs=0.3)


@pytest.mark.parametrize(("status", "posts"), [(405, 1), (404, 1), (503, 2)])
def test_an_exporter_that_takes_one_window_a_request_is_asked_for_each(stack: ExitStack, status: int, posts: int) -> None:
    a = start(stack, A)
    a.refuses_many = status
    exporters = group(stack, a.name)
    for _ in range(2):
        exporters.fetch(WINDOWS, 0.5)
        assert ask_for_each(exporters) == [430.0] * 5
    assert (a.posts, a.gets) == (posts, 10)
