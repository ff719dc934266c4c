"""What the proxy costs a request, with and without it in one run, against a model server that costs next to nothing.

Every request is asked once directly and once through each proxy, in an order that chance draws anew each time, so that a machine
that is busy with something else slows all, and what one proxy still does after a reply slows no other one more than the rest. The
proxy is a process of its own with the flags that it has by default, once more with logprobs added, and once with the journal of a
run.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from joulebench.clock import Clock
from tests.benchmarks.process import cpu_seconds, resident_bytes
from tests.benchmarks.proxy_link import CHAT, NATIVE, Ask, Link
from tests.benchmarks.report import Report, Target
from tests.benchmarks.statistics import percentile

TTFT_REQUESTS = 600
TTFT_GAP = 0.002
"""Seconds between two tokens: the first comes alone, as it does from a model."""
MIXED_REQUESTS = 1000
MEMORY_REQUESTS = 10_000
STREAMS = 60
GAP = 0.02
CHUNKS = 250
AT_ONCE_CHUNKS = 60_000
AT_ONCE_ROUNDS = 5
LOOPBACK = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class _Proxy:
    name: str
    port: int
    pid: int


def run(report: Report, clock: Clock) -> None:
    report.heading("Cost of the metering proxy")
    with ExitStack() as stack:
        upstream = stack.enter_context(_upstream())
        plain = stack.enter_context(_proxy("default", upstream))
        rows = stack.enter_context(_proxy("logprobs added", upstream, "--add-logprobs", "3"))
        runs = stack.enter_context(TemporaryDirectory())
        recorded = stack.enter_context(_proxy("with a journal", upstream, "--run-id", "bench", "--runs-dir", runs))
        _first_token(report, clock, upstream, (plain, rows, recorded))
        _chunks(report, clock, upstream, (plain, rows, recorded))
        _bytes(report, clock, upstream, (plain, rows, recorded))
        _memory(report, clock, plain)


def _first_token(report: Report, clock: Clock, upstream: int, proxies: tuple[_Proxy, ...]) -> None:
    links = {"direct": Link(upstream, clock), **{proxy.name: Link(proxy.port, clock) for proxy in proxies}}
    seconds: dict[str, list[float]] = {name: [] for name in links}
    spent = {proxy.name: cpu_seconds(proxy.pid) for proxy in proxies}
    chance = random.Random(1)
    for number in range(TTFT_REQUESTS):
        turns = [*links.items()]
        chance.shuffle(turns)
        for name, link in turns:
            seconds[name].append(link.ask(Ask(number, 4, tools=True, gap=TTFT_GAP)).first)
    report.say(f"time to first byte of a streamed reply, ms; {TTFT_REQUESTS} requests each, one at a time, in drawn turns")
    cpu = {proxy.name: f"{1e3 * (cpu_seconds(proxy.pid) - spent[proxy.name]) / TTFT_REQUESTS:.2f}" for proxy in proxies}
    table = [
        (
            name,
            *(f"{1e3 * percentile(many, rank):.2f}" for rank in (50, 90, 99)),
            _paired(many, seconds["direct"]),
            cpu.get(name, ""),
        )
        for name, many in seconds.items()
    ]
    report.table(("", "p50", "p90", "p99", "added, p50 of the pairs", "CPU of the whole request"), table)
    for proxy in proxies:
        added = {rank: percentile(seconds[proxy.name], rank) - percentile(seconds["direct"], rank) for rank in (50, 99)}
        report.targets.append(Target(f"proxy, {proxy.name}: added to TTFT, p50", 1.0, 1e3 * added[50], "ms"))
        report.targets.append(Target(f"proxy, {proxy.name}: added to TTFT, p99", 5.0, 1e3 * added[99], "ms"))


def _paired(through: list[float], direct: list[float]) -> str:
    """Each request against its own direct turn, which a machine that is busy for a while slows as well."""
    return f"{1e3 * percentile([a - b for a, b in zip(through, direct, strict=True)], 50):.2f}"


def _chunks(report: Report, clock: Clock, upstream: int, proxies: tuple[_Proxy, ...]) -> None:
    paced = [Ask(number, CHUNKS, gap=GAP, tools=True) for number in range(STREAMS)]
    rows = []
    for name, port, pid in (("direct", upstream, None), *((proxy.name, proxy.port, proxy.pid) for proxy in proxies)):
        spent, began = 0.0 if pid is None else cpu_seconds(pid), clock.monotonic()
        asyncio.run(_at_the_same_time(port, paced))
        took = clock.monotonic() - began
        rate = STREAMS * CHUNKS / took
        if pid is None:
            rows.append((name, f"{rate:.0f}", "", ""))
            continue
        cpu = cpu_seconds(pid) - spent
        per_core = STREAMS * CHUNKS / cpu
        rows.append((name, f"{rate:.0f}", f"{cpu / took:.2f}", f"{per_core:.0f}"))
        report.targets.append(Target(f"proxy, {name}: chunks/s on one core", 2000.0, per_core, "/s", at_least=True))
    report.say(
        f"streamed chunks: {STREAMS} streams at once, a token every {1e3 * GAP:g} ms in each, so that every chunk comes alone;"
        f" then one stream of {AT_ONCE_CHUNKS} chunks as fast as it goes, the median of {AT_ONCE_ROUNDS} in turns"
    )
    at_once = _one_stream(clock, {"direct": upstream, **{proxy.name: proxy.port for proxy in proxies}})
    table = [(*row, f"{at_once[row[0]]:.0f}") for row in rows]
    report.table(("", "chunks/s passed", "cores of the proxy", "chunks/s per core", "one stream, chunks/s"), table)


def _one_stream(clock: Clock, ports: Mapping[str, int]) -> dict[str, float]:
    """Returns the chunks a second of one stream at a time, by name: a single one takes less than a second and says little."""
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(AT_ONCE_ROUNDS):
        for name, port in ports.items():
            began = clock.monotonic()
            asyncio.run(_drain(port, Ask(1, AT_ONCE_CHUNKS, tools=True)))
            rates[name].append(AT_ONCE_CHUNKS / (clock.monotonic() - began))
    return {name: percentile(seen, 50) for name, seen in rates.items()}


def _bytes(report: Report, clock: Clock, upstream: int, proxies: tuple[_Proxy, ...]) -> None:
    direct = Link(upstream, clock)
    for proxy in proxies:
        through = Link(proxy.port, clock)
        different = total = 0
        for number in range(MIXED_REQUESTS):
            ask = Ask(number, 1 + number % 40, number % 3 != 0, (CHAT, NATIVE)[number % 2], number % 5 < 3)
            wanted, got = direct.ask(ask).body, through.ask(ask).body
            total += len(wanted)
            different += sum(a != b for a, b in zip(wanted, got, strict=False)) + abs(len(wanted) - len(got))
        report.say(f"{proxy.name}: {different} of {total} bytes differ in {MIXED_REQUESTS} mixed streamed and plain requests")
        report.targets.append(Target(f"proxy, {proxy.name}: bytes that differ", 0.0, different, "bytes"))


def _memory(report: Report, clock: Clock, proxy: _Proxy) -> None:
    """Each request is of a task of its own: what is kept by task has to be forgotten."""
    link = Link(proxy.port, clock)
    marks = {}
    for number in range(MEMORY_REQUESTS + 1):
        if number % (MEMORY_REQUESTS // 5) == 0:
            marks[number] = resident_bytes(proxy.pid) / 2**20
        link.ask(Ask(number, 5, number % 2 == 0, prefix=f"/run/r/task/{number}"))
    report.say("resident memory, MiB, after requests: " + ", ".join(f"{number}: {mib:.1f}" for number, mib in marks.items()))
    grown = marks[MEMORY_REQUESTS] - marks[MEMORY_REQUESTS // 5]
    report.targets.append(
        Target(f"proxy: memory grown over {MEMORY_REQUESTS} requests, after the first fifth", 2.0, grown, "MiB")
    )


async def _at_the_same_time(port: int, asks: list[Ask]) -> None:
    await asyncio.gather(*(_drain(port, ask) for ask in asks))


async def _drain(port: int, ask: Ask) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ask.bytes())
    last = b""
    while not last.endswith(b"0\r\n\r\n"):
        data = await reader.read(1 << 18)
        if not data:
            raise ConnectionResetError("the reply broke off")
        last = (last + data)[-8:]
    writer.close()
    await writer.wait_closed()


@contextmanager
def _upstream() -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.benchmarks.proxy_upstream"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield int(running.stdout.readline())
        finally:
            running.terminate()


@contextmanager
def _proxy(name: str, upstream: int, *flags: str) -> Iterator[_Proxy]:
    argv = [sys.executable, "-m", "joulebench.cli", "proxy", "--upstream", f"http://127.0.0.1:{upstream}", "--listen", LOOPBACK]
    argv += ["--web.listen-address", LOOPBACK, "--no-energy", "--log.level", "warning", *flags]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            told = "".join(running.stderr.readline() for _ in range(2))
            found = re.search(r"listening on (\S+),", told)
            assert found, told
            yield _Proxy(name, urlsplit(found.group(1)).port or 0, running.pid)
        finally:
            running.terminate()
