"""A page in a real headless Chromium, spoken to by its own protocol: what it asks for, what it complains of, what it shows."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TIMEOUT = 60.0


@dataclass
class Page:
    """``requests``: every address asked for. ``complaints``: console errors, warnings and uncaught exceptions."""

    socket: aiohttp.ClientWebSocketResponse
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    async def listen(self) -> None:
        async for message in self.socket:
            told = json.loads(message.data)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            else:
                self._note(told["method"], told["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"])[:500])

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        told = await asyncio.wait_for(answer, TIMEOUT)
        assert "error" not in told, told["error"]
        result: dict[str, Any] = told["result"]
        return result

    async def value(self, script: str) -> Any:
        told = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def open(self, path: Path) -> float:
        """Seconds from asking for the page to all of it having been read and its script having run."""
        for room in ("Network", "Runtime", "Log", "Page"):
            await self.ask(f"{room}.enable")
        began = asyncio.get_running_loop().time()
        await self.ask("Page.navigate", url=path.as_uri())
        while not await self._ready():
            assert asyncio.get_running_loop().time() - began < TIMEOUT, "the page was never ready"
            await asyncio.sleep(0.02)
        return asyncio.get_running_loop().time() - began

    async def _ready(self) -> bool:
        return bool(await self.value("document.readyState === 'complete' && document.body.dataset.ready === 'yes'"))

    async def picture(self, path: Path) -> None:
        """Of the whole page."""
        size = (await self.ask("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        shot = await self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(chromium: Path) -> AsyncIterator[Page]:
    with tempfile.TemporaryDirectory(prefix="joulebench-ui-", ignore_cleanup_errors=True) as profile:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        command = [str(chromium), *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1300,900"]
        process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    targets = await answer.json()
                address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    try:
                        yield page
                    finally:
                        listening.cancel()
                        with suppress(asyncio.CancelledError):
                            await listening
        finally:
            process.terminate()
            process.wait(timeout=20)


async def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    async def told() -> int:
        while process.poll() is None:
            if path.exists() and (lines := path.read_text().splitlines()):
                return int(lines[0])
            await asyncio.sleep(0.05)
        raise AssertionError(f"Chromium ended with {process.returncode}")

    return await asyncio.wait_for(told(), TIMEOUT)
