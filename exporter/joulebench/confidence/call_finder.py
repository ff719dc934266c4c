"""Locates the tool calls in the raw text of a reply, by the format in which the model wrote them.

Formats: Hermes and Qwen (``<tool_call>`` with JSON), Qwen3-Coder (``<function=NAME>``), GLM (``<tool_call>NAME``), Llama 3 (bare
JSON, with or without ``<|python_tag|>``), Mistral (``[TOOL_CALLS]`` with a JSON list, or ``NAME[ARGS]`` and JSON), gpt-oss
(``to=functions.NAME``), Gemma 4 and FunctionGemma (``call:NAME{...}`` between markers), DeepSeek (a name, a separator, JSON),
Cohere (``<|START_ACTION|>`` with a JSON list), Python calls (LFM2, Olmo 3, Llama 4), and any JSON object that looks like a call.
Thinking is skipped: a call in it is not made. A call that was opened and breaks off is returned as incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

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
from joulebench.confidence.literal_scanner import FUNCTION_GEMMA, GEMMA, scan_literal
from joulebench.confidence.tool_call import NAME, NAME_CHARACTER, CallSpans, Span, incomplete_call

__all__ = ["NAME_CHARACTER", "CallSpans", "Span", "after_thinking", "find_call_spans"]

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

MAX_CALLS = 256
"""Calls of one reply; a model that writes more is in a loop."""
MAX_CALL_TEXT = 512 * 1024
"""Characters of a reply that are searched: some patterns look for their end from every opener."""


def after_thinking(text: str) -> int:
    """Returns the offset behind the last thinking; the end of the text where thinking never ends."""
    end = 0
    for match in _THINKING_ENDS.finditer(text):
        end = match.end()
    return len(text) if _THINKING_BEGINS.match(text, end) else end


def find_call_spans(text: str) -> list[CallSpans]:
    """Returns the calls in the order of the text, at most MAX_CALLS of them, from its first MAX_CALL_TEXT characters."""
    text = text[:MAX_CALL_TEXT]
    at = after_thinking(text)
    # Llama 4 writes a list of calls and nothing before it; further on, the same characters are prose or mathematics.
    bare = _BARE_PYTHON.match(text, at)
    calls = list(islice(python_calls(text, Span(*bare.span(1)), bare.end(), tagged=False), MAX_CALLS)) if bare else []
    at = max([at, *(call.end for call in calls)])
    while len(calls) < MAX_CALLS and (match := _OPENER.search(text, at)):
        opener = Span(*match.span())
        new_calls = list(islice(_calls_at(text, opener), MAX_CALLS))
        calls += new_calls
        at = max([opener.end, *(call.end for call in new_calls)])
    return calls[:MAX_CALLS]


def _calls_at(text: str, opener: Span) -> Iterator[CallSpans]:
    tag = text[opener.start : opener.end]
    body = _behind(_SPACE, text, opener.end)
    if tag == "{":
        node = scan_literal(text, opener.start)
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


def _json_or_named(text: str, opener: Span, tag: str, body: int) -> Iterator[CallSpans]:
    """Reads what stands behind a tag that several model families share."""
    if text.startswith("<function=", body):
        yield function_call(text, opener, body + len("<function="))
    elif text.startswith("{", body):
        yield json_call(text, scan_literal(text, body), opener, tagged=True)
    elif text.startswith("[", body):
        yield from json_list(text, scan_literal(text, body), opener)
    elif tag == "[TOOL_CALLS]" and NAME.match(text, body):
        yield named_call(text, opener, body, MISTRAL_ARGUMENTS)
    elif tag == "<tool_call>" and (glm := NAME.match(text, body)):
        yield listed_call(text, opener, Span(*glm.span()), glm.end(), GLM)
    else:
        yield incomplete_call(opener, body)


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
