"""A client of the proxy while it is attacked: ``python -m tests.hostile.bystander HOST PORT``, until standard input closes.

Prints as JSON the seconds of each request and what was wrong with an answer. A process of its own, so that it measures the proxy
and not the attacker.
"""

from __future__ import annotations

import http.client
import json
import select
import sys

from joulebench.clock import SystemClock

PAUSE = 0.01


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    clock = SystemClock()
    body = json.dumps({"model": "bystander", "messages": []})
    link = http.client.HTTPConnection(host, port, timeout=20)
    seconds, failures = [], []
    # Connected before the attack: a flood of connections may keep new ones waiting, but not those that are open.
    link.request("POST", "/v1/chat/completions", body)
    link.getresponse().read()
    print("started", flush=True)  # noqa: T201
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began = clock.monotonic()
        try:
            link.request("POST", "/v1/chat/completions", body)
            answer = link.getresponse()
            data = answer.read()
            if answer.status != 200 or b'"content":"Hi"' not in data:
                failures.append(f"{answer.status} {data[:100]!r}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
            link.close()
        seconds.append(clock.monotonic() - began)
    print(json.dumps({"seconds": seconds, "failures": failures}))  # noqa: T201


if __name__ == "__main__":
    main()
