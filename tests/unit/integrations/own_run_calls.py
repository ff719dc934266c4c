"""A benchmark with a run of its own and an instrumented client: which call belongs to which task.

python -m tests.unit.integrations.own_run_calls URL
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import joulebench
import ollama
from joulebench import Run
from tests.unit.integrations.client_calls import MESSAGES, MODEL, TOOL, TOOLS


def main(url: str) -> None:
    client = ollama.Client(url)
    joulebench.instrument()
    joulebench.instrument()
    with Run(model=MODEL) as run:
        with run.warm_up():
            client.chat(MODEL, MESSAGES)
        client.chat(MODEL, MESSAGES)
        with run.task("by hand") as task, task.call() as call:
            call.record(client.chat(MODEL, MESSAGES))
        with run.task("in its block"):
            client.chat(MODEL, MESSAGES)
            client.chat(MODEL, TOOL, tools=TOOLS, logprobs=True)
        with run.task("a thread") as task:
            thread = threading.Thread(target=client.chat, args=(MODEL, MESSAGES))
            thread.start()
            thread.join()
        with run.task("outer"):
            with run.task("inner"):
                client.chat(MODEL, MESSAGES)
            client.chat(MODEL, MESSAGES)
        both_open = threading.Barrier(2)

        def one_of_two(name: str) -> None:
            with run.task(name):
                both_open.wait()
                client.chat(MODEL, MESSAGES)
                both_open.wait()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one_of_two, ["first thread", "second thread"]))
        asyncio.run(coroutines(url, run))
        with run.task("of the parent"):
            child = multiprocessing.get_context("fork").Process(target=client.chat, args=(MODEL, MESSAGES))
            child.start()
            child.join()
        with run.task("no tools"):
            joulebench.instrument(tools=False)
            client.chat(MODEL, TOOL, tools=TOOLS)
        with run.task("off"):
            joulebench.instrument(enabled=False)
            client.chat(MODEL, MESSAGES)


async def coroutines(url: str, run: Run) -> None:
    client = ollama.AsyncClient(url)

    async def task(name: str, count: int) -> None:
        with run.task(name):
            for _ in range(count):
                async for _ in await client.chat(MODEL, MESSAGES, stream=True):
                    await asyncio.sleep(0)

    await asyncio.gather(task("one coroutine", 1), task("two coroutines", 2))
    await client._client.aclose()


if __name__ == "__main__":
    main(sys.argv[1])
