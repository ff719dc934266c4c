"""One HTTP connection: requests in, answers out, one write each; kept open until either side is done with it.

Only what an exporter needs of HTTP/1.1: a body is never read, so whoever sends one is answered and hung up on, because what is
left of it would be taken for the next request.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus

from joulebench import __version__
from joulebench.exporter.basic_auth import Users
from joulebench.exporter.routes import TEXT, Request, Response

log = logging.getLogger(__name__)

LONGEST_HEAD = 64 * 1024
"""Bytes of a request line with its headers."""
_END = re.compile(rb"\r?\n\r?\n")
_VERSION = re.compile(r"HTTP/1\.[0-9]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_READ = 64 * 1024

_REASONS = {status.value: status.phrase for status in HTTPStatus}

Answer = Callable[[Request], Response]


class BadRequest(Exception):
    """What came is not HTTP/1.1; ``status`` is the answer to it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Connection:
    """``users`` None: no password asked. ``local``: the peer is on this machine. OSError ends ``serve``, as does the peer."""

    def __init__(self, peer: socket.socket, answer: Answer, users: Users | None, *, local: bool) -> None:
        self._peer = peer
        self._answer = answer
        self._users = users
        self._local = local
        self._unread = b""

    def serve(self) -> None:
        """Until the peer hangs up, stalls for longer than the socket's timeout, or sends what ends a connection."""
        goes_on = True
        while goes_on:
            try:
                head = self._head()
                if head is None:
                    return
                request, goes_on = parsed(head, local=self._local)
                response = self._answered(request)
            except BadRequest as error:
                request, goes_on = Request("GET", ""), False
                response = Response(error.status, TEXT, f"{error}\n".encode())
            self._peer.sendall(written(response, with_body=request.method != "HEAD", goes_on=goes_on))
            log.debug("%s %s: %d", request.method, request.target, response.status)

    def _head(self) -> bytes | None:
        """The next request without its body; None where the peer ended the connection."""
        while True:
            end = _END.search(self._unread)
            if end is not None:
                head, self._unread = self._unread[: end.start()], self._unread[end.end() :]
                return head
            if len(self._unread) > LONGEST_HEAD:
                raise BadRequest(431, "the headers are too long")
            received = self._peer.recv(_READ)
            if not received:
                return None
            # Empty lines before a request are to be ignored.
            self._unread = self._unread + received if self._unread else received.lstrip(b"\r\n")

    def _answered(self, request: Request) -> Response:
        if self._users is not None and not self._users.allow(request.headers.get("authorization", "")):
            return Response(401, TEXT, b"unauthorized\n", {"WWW-Authenticate": 'Basic realm="joulebench"'})
        return self._answer(request)


def parsed(head: bytes, *, local: bool) -> tuple[Request, bool]:
    """The request, and whether another may follow on its connection. Raises BadRequest."""
    first, *lines = head.decode("latin-1").splitlines()
    words = first.split(" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[1]:
        raise BadRequest(400, "the request line is not METHOD TARGET HTTP/1.1")
    method, target, version = words
    if not _VERSION.fullmatch(version):
        raise BadRequest(505, "HTTP/1.1 is spoken here")
    headers = _headers(lines)
    wishes = headers.get("connection", "").lower()
    stays = "close" not in wishes if version != "HTTP/1.0" else "keep-alive" in wishes
    has_body = method not in ("GET", "HEAD") or "content-length" in headers or "transfer-encoding" in headers
    return Request(method, target, headers, local), stays and not has_body


def _headers(lines: list[str]) -> Mapping[str, str]:
    """By lower-case name; of one that is given twice, the last."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise BadRequest(400, "a header is not NAME: VALUE")
        headers[name.lower()] = value.strip()
    return headers


def written(response: Response, *, with_body: bool, goes_on: bool) -> bytes:
    """Head and body in one piece, so that they leave in one packet where they fit."""
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        f"Server: joulebench/{__version__}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        *(() if goes_on else ("Connection: close",)),
    ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + response.body if with_body else head
