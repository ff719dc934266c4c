"""Where the tool calls stand in the raw text of a reply, by the format in which the model wrote them.

Formats: Hermes and Qwen (``<tool_call>`` with JSON), Qwen3-Coder (``<function=NAME>``), GLM (``<tool_call>NAME``), Llama 3 (bare
JSON, with or without ``<|python_tag|>``), Mistral (``[TOOL_CALLS]`` with a JSON list, or ``NAME[ARGS]`` and JSON), gpt-oss
(``to=functions.NAME``), Gemma 4 and FunctionGemma (``call:NAME{...}`` between markers), DeepSeek (a name, a separator, JSON),
Cohere (``<|START_ACTION|>`` with a JSON list), Python calls (LFM2, Olmo 3, Llama 4), and any JSON object that looks like a call.
Thinking is skipped: a call that is only thought about is none. A call that was opened and broken is found too, with what there
is of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from joulebench.confidence.formats import (
    DEEPSEEK_ARGUMENTS,
    DEEPSEEK_MARK,
    DEEPSEEK_SEPARATOR,
    GEMMA_ARGUMENTS,
    GLM,
    HARMONY_ARGUMENTS,
    MISTRAL_ARGUMENTS,
    function_call,
    json_call,
    json_list,
    json_parts,
    listed_call,
    named_call,
    python_calls,
)
from joulebench.confidence.found import NAME, NAME_CHARACTER, FoundCall, Span, broken
from joulebench.confidence.literals import FUNCTION_GEMMA, GEMMA, scan

__all__ = ["NAME_CHARACTER", "FoundCall", "Span", "after_thinking", "find_calls"]

_THINKING_ENDS = re.compile(
    r"</think>|</thinking>|\[/THINK\]|<\|END_THINKING\|>|<channel\|>|<\|channel\|>analysis<\|message\|>.*?<\|end\|>", re.DOTALL
)
_THINKING_BEGINS = re.compile(
    r"\s*(?:<think>|<thinking>|\[THINK\]|<\|START_THINKING\|>|<\|channel>|<\|channel\|>analysis<\|message\|>)"
)
_DEEPSEEK = DEEPSEEK_MARK.format("tool[▁ ]call[▁ ]begin")
_DEEPSEEK_OPENER = f"(?:{DEEPSEEK_MARK.format('tool[▁ ]calls[▁ ]begin')})?{_DEEPSEEK}"
_PYTHON_TAGS = ("<|tool_call_start|>", "<function_calls>", "<|python_start|>", "<|python_tag|>")
_GEMMA_TAGS = {"<|tool_call>": GEMMA, "<start_function_call>": FUNCTION_GEMMA}
_TAGS = ("<tool_call>", "[TOOL_CALLS]", "<|START_ACTION|>", "<function=", "to=functions.", *_PYTHON_TAGS, *_GEMMA_TAGS)
_OPENER = re.compile("|".join([*map(re.escape, _TAGS), _DEEPSEEK_OPENER, r"\{"]))
_GEMMA_NAME = re.compile(r"call:")
_DEEPSEEK_NAME = re.compile(f"function{DEEPSEEK_SEPARATOR}")
_PYTHON_LIST = re.compile(r"\[?\s*(?=[^\W\d][\w.]*\()")
_BARE_PYTHON = re.compile(r"\s*(\[)\s*(?=[^\W\d][\w.]*\((?:\s*\)|\s*[^\W\d]\w*\s*=))")
_SPACE = re.compile(r"\s*")


def after_thinking(text: str) -> int:
    """Offset behind the last thinking; the end of the text where thinking was begun and never ended."""
    end = 0
    for match in _THINKING_ENDS.finditer(text):
        end = match.end()
    return len(text) if _THINKING_BEGINS.match(text, end) else end


def find_calls(text: str) -> list[FoundCall]:
    """All calls in the order of the text."""
    at = after_thinking(text)
    # Llama 4 writes a list of calls and nothing before it; further on, the same characters are prose or mathematics.
    bare = _BARE_PYTHON.match(text, at)
    found = list(python_calls(text, Span(*bare.span(1)), bare.end(), tagged=False)) if bare else []
    at = max([at, *(call.end for call in found)])
    while match := _OPENER.search(text, at):
        opener = Span(*match.span())
        calls = list(_calls_at(text, opener))
        found += calls
        at = max([opener.end, *(call.end for call in calls)])
    return found


def _calls_at(text: str, opener: Span) -> Iterator[FoundCall]:
    tag = text[opener.start : opener.end]
    body = _behind(_SPACE, text, opener.end)
    if tag == "{":
        node = scan(text, opener.start)
        name, arguments = json_parts(text, node)
        if name is not None and (arguments is not None or not node.complete):
            yield json_call(text, node, opener, tagged=False)
    elif tag == "<function=":
        yield function_call(text, opener, opener.end)
    elif tag == "to=functions.":
        yield named_call(text, opener, opener.end, HARMONY_ARGUMENTS)
    elif re.search(_DEEPSEEK, tag):
        yield named_call(text, opener, _behind(_DEEPSEEK_NAME, text, opener.end), DEEPSEEK_ARGUMENTS)
    elif tag in _GEMMA_TAGS and (call := _GEMMA_NAME.match(text, body)):
        yield named_call(text, opener, call.end(), GEMMA_ARGUMENTS, _GEMMA_TAGS[tag])
    elif tag in _PYTHON_TAGS and (python := _PYTHON_LIST.match(text, body)):
        yield from python_calls(text, opener, python.end(), tagged=True)
    else:
        yield from _json_or_named(text, opener, tag, body)


def _json_or_named(text: str, opener: Span, tag: str, body: int) -> Iterator[FoundCall]:
    """Behind the tags that several families share."""
    if text.startswith("<function=", body):
        yield function_call(text, opener, body + len("<function="))
    elif text.startswith("{", body):
        yield json_call(text, scan(text, body), opener, tagged=True)
    elif text.startswith("[", body):
        yield from json_list(text, scan(text, body), opener)
    elif tag == "[TOOL_CALLS]" and NAME.match(text, body):
        yield named_call(text, opener, body, MISTRAL_ARGUMENTS)
    elif tag == "<tool_call>" and (glm := NAME.match(text, body)):
        yield listed_call(text, opener, Span(*glm.span()), glm.end(), GLM)
    else:
        yield broken(opener, body)


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
