"""A thread that judges and counts what the proxy has passed on, so that no other reply waits for that.

Closed within the run of a request: nothing here can fail it or slow its bytes.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from queue import SimpleQueue

from joulebench.proxy.asked import Asked, Protocol
from joulebench.proxy.reply import Reply
from joulebench.proxy.tally import Key, Tally
from joulebench.proxy.verdict import verdicts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that is over. ``reply`` is None where there was none to read; ``cause``: why it was not, or not wholly, read.

    ``began`` and ``ended`` by the monotonic clock; ``result`` is one of ``metrics.PROXY_RESULTS``.
    """

    key: Key
    asked: Asked
    result: str
    began: float
    ended: float
    reply: Reply | None = None
    cause: str | None = None


class Books:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._entries: SimpleQueue[Entry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="joulebench-proxy-books", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Everything that was put in is counted."""
        self._entries.put(None)
        self._thread.join(timeout=5.0)

    def put(self, entry: Entry) -> None:
        self._entries.put(entry)

    def _loop(self) -> None:
        while (entry := self._entries.get()) is not None:
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        try:
            self._count(entry)
        except Exception:
            # The thread must outlive a reply nobody thought of, or nothing is counted any more.
            log.exception("a reply could not be counted")
        self._tally.end(entry.key, entry.result)

    def _count(self, entry: Entry) -> None:
        reply = entry.reply
        if entry.result == "ok" and reply is not None:
            self._tally.reply(entry.key, entry.began, entry.ended, reply, verdicts(reply, entry.asked.tools))
            told = reply.prompt_tokens if entry.asked.protocol is Protocol.EMBEDDING else reply.completion_tokens
            cause = entry.cause or ("no_usage" if told is None else None)
            if cause is not None:
                self._tally.unread(cause)
