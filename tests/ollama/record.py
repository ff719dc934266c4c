"""Record what a real Ollama answers, for tests/captures: ``python -m tests.ollama.record`` after ``make ollama``.

Replies with and without logprobs, streamed and whole, at both of its doors, byte by byte as they came; and its inventory.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import requests

from joulebench.bench.embedded import model_file
from tests.ollama.questions import BOTH, DECLARED, DIVIDE, HAIKU, WEATHER, chat, completion
from tests.ollama.server import MODEL, OllamaServer

CAPTURES = Path(__file__).parents[1] / "captures"
ABOUT = "SmolLM2-135M-Instruct Q4_1 on a CPU, tools in the request, bodies as they came"
DOORS = {"chat": ("/api/chat", chat), "v1": ("/v1/chat/completions", completion)}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ollama-") as directory:
        server = OllamaServer(Path(directory))
        server.start()
        try:
            server.create(MODEL, model_file())
            record(server)
        finally:
            server.stop()


def record(server: OllamaServer) -> None:
    named = f"Ollama {server.ask('/api/version')['version']}"
    for door, (path, body) in DOORS.items():
        replies = []
        for question in (WEATHER, DIVIDE, HAIKU, BOTH):
            # Once for the cache, so that the same is answered each time.
            answered(server, path, body(question))
            replies += [
                {"question": question, "stream": stream, "logprobs": logprobs, "body": answered(server, path, asked)}
                for stream in (True, False)
                for logprobs in (True, False)
                for asked in (body(question, stream=stream, logprobs=logprobs),)
            ]
        head = {"server": named, "about": f"{ABOUT}, of {path}", "path": path, "declared": DECLARED}
        save(CAPTURES / "tool_calls" / f"ollama_smollm2_{door}.json", head, replies)
    inventory = [
        {"method": "GET", "path": path, "body": requests.get(server.url + path, timeout=60).text}
        for path in ("/api/version", "/api/ps", "/api/tags")
    ]
    inventory.append({"method": "POST", "path": "/api/show", "body": answered(server, "/api/show", {"model": MODEL})})
    allocated = float(server.said(r"KV buffer size = +([\d.]+) MiB")[-1]) * 1024**2
    save(CAPTURES / "ollama_inventory.json", {"server": named, "kv_cache_bytes_in_its_log": allocated}, inventory)


def answered(server: OllamaServer, path: str, body: dict[str, Any]) -> str:
    answer = requests.post(server.url + path, json=body, timeout=120)
    answer.raise_for_status()
    return answer.content.decode()


def save(path: Path, head: dict[str, Any], replies: list[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(reply, ensure_ascii=False) for reply in replies)
    begin = json.dumps(head, ensure_ascii=False).removesuffix("}")
    path.write_text(f'{begin}, "replies": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
