"""The window energy API of one exporter or of several: ``GET /api/v1/energy?start=&end=&wait=&gpus=&server=``, or ``POST`` with
many such queries.

What the exporter does not know is null there and None here; an answer that is not of this form is an error, never a 0. Of several
exporters the answers are added up; one that does not answer makes the total unknown. An exporter on another machine, or one of
several, is asked in the time of its own clock, by the offset that its answers show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

from joulebench.clients.connection import MAX_SHOWN_CHARACTERS, HttpClient, RequestFailed
from joulebench.clock import Clock, ClockOffset, SystemClock
from joulebench.devices import Device, DeviceChoice, is_host, parse_server, resolve_devices
from joulebench.energy.devices import are_used_unequally
from joulebench.errors import EnergyApiError, EnergyRefused, UserError
from joulebench.metrics import THROTTLE_REASONS
from joulebench.parsing import as_float, sum_or_none
from joulebench.schema.reasons import QUALITIES, Reason
from joulebench.settings import ConnectionSettings, Url, connection_settings, is_loopback
from joulebench.units import Joules, Seconds

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MAX_RESPONSE_BYTES = 1 << 26
MAX_RESPONSE_SECONDS = 10.0
MAX_CLOCK_UNCERTAINTY = 5.0
"""Seconds that an exporter accepts; an exchange that took longer says nothing of the clocks."""
CUT_DIGITS = 5
"""Decimal places of the seconds at which a window is cut."""


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """One GPU over the window. ``low`` and ``high`` are bounds that the counter guarantees; None where it cannot.

    ``throttled``: seconds by reason, only those that are known; an exporter of an earlier version gives none.
    """

    gpu: str
    uuid: str
    joules: Joules | None
    low: Joules | None
    high: Joules | None
    quality: str
    throttled: Mapping[str, Seconds] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnergyAnswer:
    """``source``: nvml, amd, simulated or none. ``raw_gpus`` and ``raw_total`` are the answer's own objects, for the journal.

    ``basis``: how the devices are known: declared, observed or assumed; None from an exporter of an earlier version.
    ``missing_hosts``: exporters that should have been in the answer and are not. ``mig_parents``: UUID of the GPU of each MIG
    instance that there is.
    """

    source: str
    gpus: tuple[GpuWindow, ...]
    raw_gpus: list[Any]
    raw_total: Mapping[str, Any]
    basis: str | None = None
    missing_hosts: tuple[str, ...] = ()
    mig_parents: Mapping[str, str] = field(default_factory=dict)

    def event_fields(self, start: Seconds, end: Seconds) -> dict[str, object]:
        """The fields of an energy event of the journal, for the window from ``start`` to ``end``."""
        return {
            "start": start,
            "end": end,
            "source": self.source,
            "basis": self.basis,
            "missing_hosts": list(self.missing_hosts),
            "gpus": self.raw_gpus,
            "total": self.raw_total,
        }


Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class EnergyWindow:
    """Unix times; ``cuts`` and ``changes``: seconds after the start, see ``ExporterGroup.energy``."""

    start: Seconds
    end: Seconds
    cuts: Sequence[float] = ()
    changes: Sequence[float] = ()


class _Reply(NamedTuple):
    """``body``: decoded, None where it is no JSON; ``text``: of it, for an error message. ``sent``: unix time of the request,
    which took ``elapsed`` seconds."""

    status: int
    body: Any
    text: str
    sent: float
    elapsed: float


class ExporterApi:
    """For one thread. ``timeout`` is in seconds and comes on top of the wait that is asked for.

    ``clock_offset``: the exporter's clock minus ``clock``, by the last answer; None where it does not say.
    """

    def __init__(
        self, url: str | Url, timeout: float = 2.0, settings: ConnectionSettings | None = None, clock: Clock | None = None
    ) -> None:
        self.clock_offset: ClockOffset | None = None
        self._takes_many = True
        self._fetched: dict[str, _Reply] = {}
        """Answers of many windows, by query."""
        self._clock = clock or SystemClock()
        self.url = url if isinstance(url, Url) else Url.parse(url, "--exporter-url")
        self._client = HttpClient(
            self.url,
            timeout,
            settings=settings or connection_settings("exporter"),
            max_bytes=MAX_RESPONSE_BYTES,
            max_seconds=MAX_RESPONSE_SECONDS,
        )

    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0, devices: Mapping[str, str] | None = None) -> EnergyAnswer:
        """Energy between two unix times; waits up to ``wait`` seconds for the counter to pass the end.

        ``devices``: parameters that choose devices, such as ``{"server": "127.0.0.1:11434"}``. Raises EnergyApiError, or
        EnergyRefused where asking again would be of no use.
        """
        parameters = _parameters(start, end, wait, devices or {})
        reply = self._fetched.pop(urlencode(parameters), None)
        if reply is None:
            reply = self._request("GET", wait, params=parameters)
        self.clock_offset = _clock_offset(reply) if reply.status in (200, 400) else None
        if reply.status != 200:
            kind = EnergyRefused if reply.status == 400 else EnergyApiError
            hint = self._client.refusal_hint(reply.status, reply.text)
            raise kind(f"{self.url}/api/v1/energy: {reply.status} {reply.text}{hint}")
        try:
            return _parse_answer(reply.body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnergyApiError(f"{self.url}/api/v1/energy: an answer that cannot be read ({error})") from error

    @property
    def has_fetched(self) -> bool:
        """Whether answers of many windows are left, which were asked for by the offset of that moment."""
        return bool(self._fetched)

    def fetch(self, windows: Sequence[tuple[Seconds, Seconds]], wait: float, devices: Sequence[Mapping[str, str]]) -> None:
        """Fetches the answers of many windows in one request; ``energy`` with the same arguments then takes each from here.

        ``devices``: parameters of each window, as of ``energy``. Does nothing with an exporter of an earlier version. Raises
        EnergyApiError where the exporter cannot be reached.
        """
        self._fetched.clear()
        if not self._takes_many:
            return
        queries = [urlencode(_parameters(*window, wait, some)) for window, some in zip(windows, devices, strict=True)]
        reply = self._request("POST", wait, body="\n".join(queries).encode())
        # With any other status, what is wrong shows in the answer for a single window.
        self._takes_many = reply.status not in (404, 405, 501)
        if reply.status != 200:
            return
        try:
            answers = [(int(answer["status"]), answer["body"], json.dumps(answer["body"])) for answer in reply.body["answers"]]
        except (ValueError, KeyError, TypeError):
            return
        for query, (status, body, shown) in zip(queries, answers, strict=False):
            self._fetched[query] = reply._replace(status=status, body=body, text=shown[:MAX_SHOWN_CHARACTERS])

    def _request(self, method: str, wait: float, *, params: Mapping[str, str] | None = None, body: bytes | None = None) -> _Reply:
        sent, began = self._clock.unix(), self._clock.monotonic()
        headers = None if body is None else {"Content-Type": "text/plain"}
        try:
            response = self._client.request(
                method, "/api/v1/energy", params=params, body=body, headers=headers, extra_seconds=wait
            )
        except RequestFailed as error:
            self.clock_offset = None
            raise EnergyApiError(f"{self.url}: {error}") from error
        elapsed = self._clock.monotonic() - began
        try:
            decoded = response.json()
        except ValueError:
            decoded = None
        return _Reply(response.status, decoded, response.shown_text, sent, elapsed)

    def close(self) -> None:
        self._client.close()


class HostExporter:
    """One host's exporter, asked in the time of its own clock. ``shifts``: whether that may be another clock than ours.

    The first answer shows the offset; where the clocks differ, the window is asked for again. An offset that changes later means
    that a clock was set, so the window of that answer is suspect, and later windows are asked for by the new offset.
    """

    def __init__(self, url: Url, timeout: float, clock: Clock, *, shifts: bool) -> None:
        self._api = ExporterApi(url, timeout, clock=clock)
        self._is_local = url.is_loopback
        self._shifts = shifts
        self._offset: ClockOffset | None = None

    def energy(self, start: Seconds, end: Seconds, wait: float, devices: Mapping[str, str]) -> EnergyAnswer:
        """As ``ExporterApi.energy``; each GPU of the answer has the clock offset that was used."""
        before = self._offset
        try:
            answer = self._ask(start, end, wait, devices)
        except EnergyRefused:
            # To a clock that is behind ours, the window may lie in the future.
            if not self._learn_offset() or before is not None:
                raise
            return self._ask(start, end, wait, devices)
        if not self._learn_offset():
            return answer
        if before is None:
            return self._ask(start, end, wait, devices)
        return _as_suspect(answer, Reason.CLOCK_STEP)

    def fetch(self, windows: Sequence[tuple[Seconds, Seconds]], wait: float, devices: Sequence[Mapping[str, str]]) -> None:
        """As ``ExporterApi.fetch``; nothing where the clock of the exporter is not known yet, or its answers are to show it."""
        offset = self._offset
        if self._shifts and offset is None:
            return
        if offset is None or not self._is_other_clock(offset):
            self._api.fetch(windows, wait, devices)
            return
        shifted = [(Seconds(start + offset.seconds), Seconds(end + offset.seconds)) for start, end in windows]
        self._api.fetch(shifted, wait, [{**some, "clock_uncertainty": repr(offset.uncertainty)} for some in devices])

    def close(self) -> None:
        self._api.close()

    def _ask(self, start: Seconds, end: Seconds, wait: float, devices: Mapping[str, str]) -> EnergyAnswer:
        offset = self._offset
        if offset is None or not self._is_other_clock(offset):
            return self._api.energy(start, end, wait, devices)
        used = {"clock_offset_seconds": offset.seconds, "clock_uncertainty_seconds": offset.uncertainty}
        answer = self._api.energy(
            Seconds(start + offset.seconds),
            Seconds(end + offset.seconds),
            wait,
            {**devices, "clock_uncertainty": repr(offset.uncertainty)},
        )
        return replace(answer, raw_gpus=[{**gpu, **used} for gpu in answer.raw_gpus])

    def _learn_offset(self) -> bool:
        """Takes in the offset that the last answer shows. Returns whether windows have to be asked for in another way now."""
        measured, known = self._api.clock_offset, self._offset
        if measured is None or not self._shifts or measured.uncertainty > MAX_CLOCK_UNCERTAINTY:
            return False
        if known is None or not known.agrees_with(measured):
            self._offset = measured
            return self._is_other_clock(measured) or (known is not None and self._is_other_clock(known))
        if measured.uncertainty < known.uncertainty and not self._api.has_fetched:
            self._offset = measured
        return False

    def _is_other_clock(self, offset: ClockOffset) -> bool:
        """Processes of one machine share its clock, unless the offset shows that they do not."""
        return not self._is_local or offset.is_certain


class ExporterGroup:
    """The exporters of all hosts that may serve, asked as one. For one thread; several exporters are asked side by side.

    A server on this machine is looked for by the exporters on this machine, one elsewhere by the exporter of its host.
    """

    def __init__(self, urls: Sequence[Url], choice: DeviceChoice, clock: Clock, timeout: float = 2.0) -> None:
        several = len(urls) > 1
        self._apis = {_host(url): HostExporter(url, timeout, clock, shifts=several or not url.is_loopback) for url in urls}
        self._choice = choice
        self._clock = clock
        self._threads: ThreadPoolExecutor | None = None
        if several:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(len(urls), "joulebench-exporters")
        self._unknown_parameters: set[str] = set()
        self._known: dict[str, tuple[Device, ...]] = {}
        self._roles: Mapping[tuple[str, str], str] = {}

    def energy(
        self, start: Seconds, end: Seconds, wait: float = 0.0, cuts: Sequence[float] = (), changes: Sequence[float] = ()
    ) -> EnergyAnswer:
        """As ``ExporterApi.energy``, of the chosen devices of all hosts.

        ``cuts``: rising seconds after the start. Each GPU of the answer then has ``parts``: joules, lower and upper bound between
        the cuts, where its exporter knows them; better by ``changes``, further seconds at which power may change. Raises
        EnergyApiError where no host answers, EnergyRefused where a host refuses or no device is what was declared.
        """
        given = _time_parameters(cuts, changes)
        while True:
            known = {name: text for name, text in given.items() if name not in self._unknown_parameters}
            try:
                return self._energy(start, end, wait, known)
            except EnergyRefused as error:
                # An exporter of an earlier version.
                unknown = [name for name in known if f"unknown parameter '{name}'" in str(error)]
                if not unknown:
                    raise
                self._unknown_parameters.update(unknown)

    def fetch(self, windows: Sequence[EnergyWindow], wait: float = 0.0) -> None:
        """Fetches the answers of many windows with one request to each host; ``energy`` with the same arguments takes them here.

        Raises EnergyApiError where no host answers, EnergyRefused where no device is what was declared.
        """
        questions, _ = self._questions()
        further = [
            {
                name: text
                for name, text in _time_parameters(window.cuts, window.changes).items()
                if name not in self._unknown_parameters
            }
            for window in windows
        ]
        times = [(window.start, window.end) for window in windows]
        calls = {
            host: partial(self._apis[host].fetch, times, wait, [{**devices, **some} for some in further])
            for host, devices in questions.items()
        }
        errors = [error for error in self._side_by_side(calls).values() if error is not None]
        if errors and len(errors) == len(calls):
            raise errors[0]

    def _energy(self, start: Seconds, end: Seconds, wait: float, further: Mapping[str, str]) -> EnergyAnswer:
        """``further``: parameters for every host."""
        choice = self._choice
        questions, missing = self._questions()
        answers = self._ask(_with_parameters(questions, further), missing, start, end, wait)
        if choice.job is not None and not missing and all(answer.basis == "assumed" for answer in answers.values()):
            # No process of the job is found, as without cgroups.
            if choice.server_address is not None:
                questions = _with_parameters(self._server_questions(choice.server_address), further)
                answers = self._ask(questions, missing, start, end, wait)
            else:
                answers = self._allocated_answer(start, end, wait, further) or answers
        is_ambiguous = self._is_ambiguous(questions, answers)
        if is_ambiguous:
            answers = self._ask(_with_parameters({host: {} for host in self._apis}, further), missing, start, end, wait)
        combined = _combine(answers, tuple(dict.fromkeys(missing)))
        if is_ambiguous or (len(answers) > 1 and _is_used_unequally(combined, end - start)):
            combined = _as_suspect(combined, Reason.DEVICES_ASSUMED)
        if not self._roles:
            return combined
        roles = [self._roles.get((str(gpu.get("host")), str(gpu.get("uuid")))) for gpu in combined.raw_gpus]
        return replace(combined, raw_gpus=[{**gpu, "role": role} for gpu, role in zip(combined.raw_gpus, roles, strict=True)])

    def _ask(
        self, questions: Mapping[str, Mapping[str, str]], missing: list[str], start: Seconds, end: Seconds, wait: float
    ) -> dict[str, EnergyAnswer]:
        """Returns the answers by host, and adds hosts that do not answer to ``missing``. Raises as ``energy`` does."""
        answers: dict[str, EnergyAnswer] = {}
        errors: list[EnergyApiError] = []
        for host, outcome in self._side_by_side(
            {host: partial(self._apis[host].energy, start, end, wait, devices) for host, devices in questions.items()}
        ).items():
            if isinstance(outcome, EnergyRefused):
                raise outcome
            if isinstance(outcome, EnergyApiError):
                errors.append(outcome)
                missing.append(host)
            else:
                answers[host] = outcome
        if not answers:
            raise errors[0] if errors else EnergyApiError(f"{', '.join(missing)}: no exporter answers")
        return answers

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for api in self._apis.values():
            api.close()

    def check(self) -> None:
        """Raises UserError where a declared device is none of those that the exporters have; silent where one does not answer."""
        if self._choice.gpus and not self._learn_devices():
            resolve_devices(self._choice.gpus, self._all_devices(), "gpus")

    def _allocated_answer(self, start: Seconds, end: Seconds, wait: float, further: Mapping[str, str]) -> dict[str, EnergyAnswer]:
        """Returns the answer for the GPUs that Slurm gave to the job on this node; none where it is not known or not so."""
        own = [host for host in self._apis if len(self._apis) == 1 or _is_same_host("localhost", host)]
        if len(own) != 1:
            return {}
        if not self._choice.allocated:
            return {}
        names = ",".join(name.name for name in self._choice.allocated)
        try:
            return {own[0]: self._apis[own[0]].energy(start, end, wait, {"gpus": names, **further})}
        except EnergyApiError:
            return {}

    def _questions(self) -> tuple[dict[str, Mapping[str, str]], list[str]]:
        """Returns the parameters for each host that is to be asked, and the hosts that cannot be asked for what they have."""
        choice = self._choice
        if choice.gpus:
            return self._declared_questions()
        address = choice.server_address
        # A job of several nodes may serve a model on all of them, of which the server's own node is one.
        if choice.job is not None and (address is None or len(self._apis) > 1):
            return {host: {"job": choice.job} for host in self._apis}, []
        if address is None:
            return {host: {} for host in self._apis}, []
        return self._server_questions(address), []

    def _server_questions(self, address: str) -> dict[str, Mapping[str, str]]:
        name = parse_server(address)[0]
        asked = [host for host in self._apis if _is_same_host(name, host)] or list(self._apis)
        return {host: {"server": address} for host in asked}

    def _is_ambiguous(self, questions: Mapping[str, Mapping[str, str]], answers: Mapping[str, EnergyAnswer]) -> bool:
        """Whether several hosts have a server that takes connections to this address, of which only one can be meant."""
        address = self._choice.server_address
        observing = [host for host, answer in answers.items() if answer.basis == "observed" and "server" in questions[host]]
        if address is None or len(observing) < 2:
            return False
        return not any(_is_same_host(parse_server(address)[0], host) for host in observing)

    def _declared_questions(self) -> tuple[dict[str, Mapping[str, str]], list[str]]:
        silent = self._learn_devices()
        known = self._all_devices()
        names = self._choice.gpus
        if silent:
            # What no other host has may be a device of the host that is silent.
            names = tuple(name for name in names if any(name.matches(device) for device in known))
        try:
            devices = resolve_devices(names, known, "gpus")
        except UserError as error:
            raise EnergyRefused(str(error)) from error
        self._roles = {(device.host, device.uuid): device.role for device in devices if device.role is not None}
        by_host: dict[str, list[str]] = {}
        for device in devices:
            by_host.setdefault(device.host, []).append(device.uuid)
        address = self._choice.server_address
        server = {} if address is None else {"server": address}
        questions: dict[str, Mapping[str, str]] = {host: {"gpus": ",".join(uuids), **server} for host, uuids in by_host.items()}
        return questions, list(silent) if len(names) < len(self._choice.gpus) else []

    def _all_devices(self) -> list[Device]:
        return [device for devices in self._known.values() for device in devices]

    def _learn_devices(self) -> list[str]:
        """Asks the exporters whose devices are unknown for them. Returns the hosts that do not answer."""
        now = self._clock.unix()
        unknown = {
            host: partial(api.energy, Seconds(now - 1.0), Seconds(now), 0.0, {})
            for host, api in self._apis.items()
            if host not in self._known
        }
        silent = []
        for host, outcome in self._side_by_side(unknown).items():
            if isinstance(outcome, EnergyApiError):
                silent.append(host)
            else:
                index_of = {gpu.uuid: int(gpu.gpu) for gpu in outcome.gpus}
                parents = outcome.mig_parents.items()
                instances = (Device(host, index_of.get(parent, -1), uuid, parent) for uuid, parent in parents)
                self._known[host] = (*(Device(host, index, uuid) for uuid, index in index_of.items()), *instances)
        return silent

    def _side_by_side(self, calls: Mapping[str, Callable[[], Outcome]]) -> dict[str, Outcome | EnergyApiError]:
        if self._threads is None:
            return {host: _outcome(call) for host, call in calls.items()}
        futures = {host: self._threads.submit(_outcome, call) for host, call in calls.items()}
        return {host: future.result() for host, future in futures.items()}


def _parameters(start: Seconds, end: Seconds, wait: float, devices: Mapping[str, str]) -> dict[str, str]:
    return {"start": repr(float(start)), "end": repr(float(end)), "wait": repr(float(wait)), **devices}


def _time_parameters(cuts: Sequence[float], changes: Sequence[float]) -> dict[str, str]:
    times = {"cuts": cuts, "changes": changes}
    return {name: ",".join(f"{time:.{CUT_DIGITS}f}" for time in some) for name, some in times.items() if some}


def _with_parameters(questions: Mapping[str, Mapping[str, str]], further: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    return {host: {**parameters, **further} for host, parameters in questions.items()}


def _outcome(call: Callable[[], Outcome]) -> Outcome | EnergyApiError:
    try:
        return call()
    except EnergyApiError as error:
        return error


def _host(url: Url) -> str:
    return urlsplit(url.base).netloc


def _is_same_host(name: str, host: str) -> bool:
    exporter_name = urlsplit(f"//{host}").hostname or ""
    return is_host(name, host) or (is_loopback(name) and is_loopback(exporter_name))


BASES = ("declared", "observed", "assumed")
"""From the surest to the weakest."""


def _combine(answers: Mapping[str, EnergyAnswer], missing: tuple[str, ...]) -> EnergyAnswer:
    """The answers of several hosts as one. A host that observed nothing has no part where another one observed something."""
    if any(answer.basis == "observed" for answer in answers.values()):
        answers = {host: answer for host, answer in answers.items() if answer.basis != "assumed"}
    if len(answers) == 1 and not missing:
        (host, answer) = next(iter(answers.items()))
        return replace(answer, raw_gpus=[{**gpu, "host": host} for gpu in answer.raw_gpus])
    totals = [answer.raw_total for answer in answers.values()]
    reasons = [*dict.fromkeys(reason for total in totals for reason in total.get("reasons", ()))]
    total: dict[str, Any] = {name: sum_or_none(as_float(one.get(name)) for one in totals) for name in ("joules", "low", "high")}
    quality = max((str(one.get("quality")) for one in totals), key=_rank)
    if missing:
        total, quality = {"joules": None, "low": total["low"], "high": None}, "missing"
        reasons.append(Reason.HOST_MISSING.value)
    sources = {answer.source for answer in answers.values()}
    bases = [answer.basis for answer in answers.values()]
    return EnergyAnswer(
        source=sources.pop() if len(sources) == 1 else "mixed",
        gpus=tuple(gpu for answer in answers.values() for gpu in answer.gpus),
        raw_gpus=[{**gpu, "host": host} for host, answer in answers.items() for gpu in answer.raw_gpus],
        raw_total={**total, "quality": quality, "reasons": reasons},
        basis=None if None in bases else max(filter(None, bases), key=BASES.index),
        missing_hosts=missing,
    )


def _is_used_unequally(answer: EnergyAnswer, seconds: float) -> bool:
    """Whether GPUs of several hosts are counted of which some hardly served the task; each exporter judges its own alone."""
    return answer.basis == "assumed" and are_used_unequally([gpu.joules for gpu in answer.gpus], seconds)


def _rank(quality: str) -> int:
    return QUALITIES.index(quality) if quality in QUALITIES else len(QUALITIES)


def _as_suspect(answer: EnergyAnswer, reason: Reason) -> EnergyAnswer:
    """The answer with this reason for its total and each of its GPUs."""

    def judged(energy: Mapping[str, Any]) -> dict[str, Any]:
        quality = max(str(energy.get("quality")), "suspect", key=_rank)
        return {**energy, "quality": quality, "reasons": [*energy.get("reasons", ()), reason.value]}

    raw_gpus = [judged(gpu) for gpu in answer.raw_gpus]
    gpus = tuple(replace(gpu, quality=raw["quality"]) for gpu, raw in zip(answer.gpus, raw_gpus, strict=True))
    return replace(answer, gpus=gpus, raw_gpus=raw_gpus, raw_total=judged(answer.raw_total))


def _clock_offset(reply: _Reply) -> ClockOffset | None:
    """By the clock that an answer shows; None without one, as of an exporter of an earlier version."""
    try:
        shown = reply.body["clock"]
        received, answered = as_float(shown["received"]), as_float(shown["answered"])
    except (KeyError, TypeError):
        return None
    if received is None or answered is None:
        return None
    return ClockOffset.of_exchange(reply.sent, reply.elapsed, received, answered)


def _parse_answer(body: Any) -> EnergyAnswer:
    gpus = tuple(
        GpuWindow(
            gpu=str(int(gpu["gpu"])),
            uuid=str(gpu["uuid"]),
            joules=_joules(gpu, "joules"),
            low=_joules(gpu, "low"),
            high=_joules(gpu, "high"),
            quality=str(gpu["quality"]),
            throttled=_throttled(gpu.get("throttled_seconds") or {}),
        )
        for gpu in body["gpus"]
    )
    for energy in (body["total"], *body["gpus"]):
        _check_energy(energy)
    basis = body.get("basis")
    return EnergyAnswer(
        source=str(body["source"]),
        gpus=gpus,
        raw_gpus=list(body["gpus"]),
        raw_total=body["total"],
        basis=basis if basis in BASES else None,
        mig_parents={str(instance["uuid"]): str(instance["parent"]) for instance in body.get("mig") or ()},
    )


def _check_energy(energy: Mapping[str, Any]) -> None:
    """Raises TypeError or AttributeError unless what an answer says of a GPU or of all of them is an object of the right kinds.

    Reasons may be absent, and so may be bounds of the total.
    """
    for name in ("joules", "low", "high"):
        _number(name, energy.get(name))
    reasons = energy.get("reasons", [])
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise TypeError("reasons are no list of names")


def _joules(gpu: Mapping[str, Any], name: str) -> Joules | None:
    value = _number(name, gpu[name])
    return None if value is None else Joules(value)


def _throttled(seconds_by_reason: Mapping[str, Any]) -> dict[str, Seconds]:
    """Seconds by reason, of the reasons that this version knows; unknown ones are left out."""
    seconds = {reason: _number(f"throttled_seconds.{reason}", seconds_by_reason.get(reason)) for reason in THROTTLE_REASONS}
    if any(value is not None and value < 0 for value in seconds.values()):
        raise ValueError(f"throttled_seconds are {dict(seconds_by_reason)!r}")
    return {reason: Seconds(value) for reason, value in seconds.items() if value is not None}


def _number(name: str, value: Any) -> float | None:
    number = as_float(value)
    if value is not None and number is None:
        raise TypeError(f"{name} is {value!r}")
    return number
