"""Passwords under attack: clients that guess wait, and the right password never does."""

from __future__ import annotations

import asyncio
import base64

import bcrypt

from joulebench.clock import SystemClock
from joulebench.exporter.auth import FREE_FAILURES, MAX_PENDING, BasicAuth

HASH = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(8)).decode()
GUESSERS = 100


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def auth() -> BasicAuth:
    return BasicAuth({"ada": HASH}, "")


async def seconds(checked: BasicAuth, password: str, address: str) -> tuple[bool, float]:
    clock = SystemClock()
    begun = clock.monotonic()
    allowed = await checked.allow(basic("ada", password), address)
    return allowed, clock.monotonic() - begun


def test_the_right_password_gets_in_while_a_hundred_clients_guess() -> None:
    checked = auth()
    guesses = 0

    async def guess(client: int) -> None:
        nonlocal guesses
        while True:
            assert not await checked.allow(basic("ada", f"guess {client} {guesses}"), "10.0.0.9")
            guesses += 1

    async def attack() -> list[tuple[bool, float]]:
        guessers = [asyncio.create_task(guess(client)) for client in range(GUESSERS)]
        await asyncio.sleep(0.05)
        # From the guessers' own address, and never remembered: a fresh user each time would be the same.
        first = await seconds(checked, "correct horse", "10.0.0.9")
        again = await seconds(checked, "correct horse", "10.0.0.1")
        for task in guessers:
            task.cancel()
        await asyncio.gather(*guessers, return_exceptions=True)
        return [first, again]

    answers = asyncio.run(attack())
    checked.close()
    assert [allowed for allowed, _ in answers] == [True, True]
    assert max(waited for _, waited in answers) < 1.0
    assert answers[1][1] < 0.05, "a pair that was right is remembered"


def test_refusals_to_an_address_come_later_with_each_failure_and_to_others_at_once() -> None:
    checked = auth()

    async def attack() -> tuple[list[float], float]:
        mine = [(await seconds(checked, f"wrong {number}", "10.0.0.9"))[1] for number in range(FREE_FAILURES + 2)]
        return mine, (await seconds(checked, "wrong", "10.0.0.1"))[1]

    mine, other = asyncio.run(attack())
    checked.close()
    assert max(mine[:FREE_FAILURES]) < 0.5
    assert mine[FREE_FAILURES] >= 0.5
    assert mine[FREE_FAILURES + 1] >= 1.0
    assert other < 0.5


def test_more_requests_than_may_wait_refuse_the_oldest_unchecked() -> None:
    checked = auth()

    async def attack() -> list[bool]:
        waiting = [checked.allow(basic("ada", f"wrong {number}"), f"10.0.{number}.1") for number in range(3 * MAX_PENDING)]
        return await asyncio.gather(*waiting)

    clock = SystemClock()
    begun = clock.monotonic()
    assert asyncio.run(attack()) == [False] * 3 * MAX_PENDING
    checked.close()
    assert clock.monotonic() - begun < 20


def test_an_unknown_user_costs_a_check_too() -> None:
    checked = auth()

    async def times() -> tuple[float, float]:
        clock = SystemClock()
        results = []
        for user in ("ada", "nobody"):
            begun = clock.monotonic()
            assert not await checked.allow(basic(user, f"wrong for {user}"), f"10.0.0.{len(user)}")
            results.append(clock.monotonic() - begun)
        return results[0], results[1]

    known, unknown = asyncio.run(times())
    checked.close()
    assert unknown > known / 5
