"""Record what a real llama.cpp or Ollama answers on the endpoints beside chat completions, for tests/captures/endpoints/.

    python scripts/record_endpoint_captures.py [--ollama URL MODEL]

Each is asked for words and, where it takes tools, for a tool call, streamed and not. The model is the embedded one, shown two
worked calls, since it calls no tool without. llama.cpp is not started for embeddings, so these are not among them.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import requests

from joulebench.bench.embedded import MODEL_NAME, REQUEST_SETTINGS, EmbeddedModel

OUT = Path(__file__).parents[1] / "tests" / "captures" / "endpoints"

Json = dict[str, object]

PARAMETERS: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DESCRIBED = [{"name": name, "description": f"Get the {name} of a city"} for name in ("population", "weather")]
WORKED = (("How many people live in Oslo?", "population", "Oslo"), ("What is the weather in Rome?", "weather", "Rome"))
QUESTION = "What is the weather in Paris?"
WORDS = "Count to five."
SETTINGS: Json = {"temperature": 0, **REQUEST_SETTINGS, "cache_prompt": False}


def responses() -> Json:
    past: list[Json] = []
    for number, (question, name, city) in enumerate(WORKED):
        past += [
            {"role": "user", "content": question},
            {"type": "function_call", "call_id": f"c{number}", "name": name, "arguments": json.dumps({"city": city})},
            {"type": "function_call_output", "call_id": f"c{number}", "output": "ok"},
        ]
    tools = [{"type": "function", **one, "parameters": PARAMETERS} for one in DESCRIBED]
    return {"max_output_tokens": 40, "input": [*past, {"role": "user", "content": QUESTION}], "tools": tools}


def messages() -> Json:
    past: list[Json] = []
    for number, (question, name, city) in enumerate(WORKED):
        past += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"c{number}", "name": name, "input": {"city": city}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"c{number}", "content": "ok"}]},
        ]
    tools = [{**one, "input_schema": PARAMETERS} for one in DESCRIBED]
    return {"max_tokens": 40, "messages": [*past, {"role": "user", "content": QUESTION}], "tools": tools}


ASKED: dict[str, tuple[str, Json]] = {
    "responses, words": ("/v1/responses", {"input": WORDS, "max_output_tokens": 12}),
    "responses, call": ("/v1/responses", responses()),
    "messages, words": ("/v1/messages", {"messages": [{"role": "user", "content": WORDS}], "max_tokens": 12}),
    "messages, call": ("/v1/messages", messages()),
    "completions, words": ("/v1/completions", {"prompt": "One, two,", "max_tokens": 8}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ollama", nargs=2, metavar=("URL", "MODEL"))
    given = parser.parse_args().ollama
    if given is not None:
        url, model = given
        version_ = requests.get(f"{url}/api/version", timeout=60).json()["version"]
        _record("ollama", f"Ollama {version_}", url, model)
        return
    with EmbeddedModel() as server:
        _record("llamacpp", f"llama.cpp by xllamacpp {version('xllamacpp')}", server.base_url.removesuffix("/v1"), MODEL_NAME)


def _record(file: str, server: str, url: str, model: str) -> None:
    found = []
    for name, (path, body) in ASKED.items():
        for stream in (False, True):
            request = {"model": model, **SETTINGS, **body, "stream": stream}
            answer = requests.post(url + path, json=request, timeout=300)
            answer.raise_for_status()
            kind, told = answer.headers["Content-Type"], answer.content.decode()
            found.append({"name": name, "path": path, "request": request, "content_type": kind, "body": told})
    OUT.mkdir(exist_ok=True)
    capture = {"server": server, "model": "SmolLM2-135M-Instruct Q4_1", "exchanges": found}
    (OUT / f"{file}.json").write_text(json.dumps(capture, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
