"""Which node of a model's compute graph ends which part of the model, from the names that llama.cpp gives to nodes.

Nodes are asked about in the order in which they run, so a part is what runs between two such ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INPUT, ATTENTION, FEED_FORWARD, LAYER, OUTPUT = "input", "attention", "feed_forward", "layer", "output"
KINDS = (INPUT, ATTENTION, FEED_FORWARD, LAYER, OUTPUT)

_OF_LAYER = re.compile(r"(?P<what>.+)-(?P<layer>\d+)")
_ATTENTION_ENDS = ("ffn_inp", "sa_out")
_FEED_FORWARD_BEGINS = ("ffn_", "moe_")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """``kind``: one of KINDS; ``layer`` is a whole layer of which no name tells where attention ends."""

    layer: int | None
    kind: str


def ends(names: Sequence[str]) -> Mapping[int, Part]:
    """Position of the last node of each part, in order. Empty where no node belongs to a layer."""
    of_layer: dict[int, dict[str, int]] = {}
    first: dict[int, int] = {}
    for position, name in enumerate(names):
        if found := _OF_LAYER.fullmatch(name):
            layer = int(found["layer"])
            first.setdefault(layer, position)
            # The last of a name: a node that is reshaped keeps it.
            of_layer.setdefault(layer, {})[found["what"]] = position
    if not of_layer:
        return {}
    layers = sorted(of_layer)
    marks: dict[int, Part] = {}
    if first[layers[0]] > 0:
        marks[first[layers[0]] - 1] = Part(None, INPUT)
    for layer in layers:
        end = of_layer[layer].get("l_out", max(of_layer[layer].values()))
        attention = _end_of_attention(names, layer, of_layer[layer], first[layer], end)
        if attention is not None:
            marks[attention] = Part(layer, ATTENTION)
        marks[end] = Part(layer, LAYER if attention is None else FEED_FORWARD)
    if len(names) - 1 not in marks:
        marks[len(names) - 1] = Part(None, OUTPUT)
    return dict(sorted(marks.items()))


def _end_of_attention(names: Sequence[str], layer: int, own: Mapping[str, int], begin: int, end: int) -> int | None:
    for name in _ATTENTION_ENDS:
        if begin < own.get(name, -1) < end:
            return own[name]
    for position in range(begin + 1, end):
        if names[position].startswith(_FEED_FORWARD_BEGINS) and names[position].endswith(f"-{layer}"):
            return position - 1
    return None
