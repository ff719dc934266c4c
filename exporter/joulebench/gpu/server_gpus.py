"""Which GPUs of this machine a model server uses at a moment, for a program that reads GPUs without an exporter."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from joulebench.clock import Clock
from joulebench.errors import UserError
from joulebench.gpu.device_use import parse_owner
from joulebench.gpu.processes import ProcessNames, ProcessPoller
from joulebench.gpu.reading import GpuSource

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
KEEP_SECONDS = 60.0
ALL_EXPECTED = re.compile("")
"""No program is unexpected: whose it is is what matters here."""


class ServerGpus:
    """By the processes with memory on each GPU and the ports on which they and their parents listen, as the exporter finds them.

    ``server``: HOST:PORT or URL. Raises UserError, which names ``setting``, for what is no address.
    """

    def __init__(self, source: GpuSource, server: str, clock: Clock, setting: str, proc: Path = Path("/proc")) -> None:
        try:
            self._owner = parse_owner("server", server)
        except ValueError as error:
            raise UserError(f"{setting}: {error}") from error
        self._source = source
        self._server = server
        self._clock = clock
        names = ProcessNames(ALL_EXPECTED, source.process_name, proc)
        self._poller = ProcessPoller(source.devices(), names, clock, period=POLL_SECONDS, keep_seconds=KEEP_SECONDS, proc=proc)
        self._logged: frozenset[str] | None = None

    def uuids(self) -> frozenset[str]:
        """The GPUs that it uses now, in the calling thread; empty where it uses none, or where that cannot be seen."""
        now = self._clock.monotonic()
        self._poller.set_devices(self._source.devices())
        self._poller.poll_unless_after(now)
        own, shared = [], []
        for device in self._source.devices():
            use = self._poller.use.use(device.identity.uuid, self._owner, now, now)
            if use is not None and use.own:
                own.append(device.identity.uuid)
                shared += [device.identity.uuid] if use.others else []
        found = frozenset(own)
        if found != self._logged:
            self._logged = found
            log.warning(
                "%s uses %s", self._server, ", ".join(own) or "no GPU of this machine that can be seen; rows have no GPU values"
            )
            if shared:
                log.warning("others use %s, too; its power counts as a whole", ", ".join(shared))
        return found
