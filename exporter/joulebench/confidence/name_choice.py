"""The choice of a tool by its name, token by token, against the other declared tools.

A token carries information only where the declared names that were still possible before it are not all possible after it; the
token that ends the name counts too where another name goes on (``get`` and ``get_all``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulebench.confidence.call_finder import NAME_CHARACTER, Span
from joulebench.confidence.tokens import TokenLogprob, TokenText

MAX_MARGIN = 20.0

_NAME_PART = re.compile(rf"(?:{NAME_CHARACTER})*")


@dataclass(frozen=True, slots=True)
class Choice:
    """One token of the name. ``prefix``: the name before it; ``lead``: what else the token begins with (a quote, say);
    ``possible``: declared names that begin with the prefix."""

    row: TokenLogprob
    prefix: str
    lead: str
    possible: frozenset[str]

    def left(self, token: str) -> frozenset[str]:
        """Declared names still possible after ``token`` in this place; all of them while it has not begun the name."""
        if not token.startswith(self.lead):
            return self.possible if self.lead.startswith(token) else frozenset()
        rest = token[len(self.lead) :]
        match = _NAME_PART.match(rest)
        part = match.group() if match else ""
        written = self.prefix + part
        if len(part) < len(rest):
            return self.possible & {written}
        return frozenset(name for name in self.possible if name.startswith(written))

    @property
    def parts(self) -> bool:
        """Whether this token told declared names apart."""
        return self.left(self.row.token) != self.possible


def name_measures(tokens: TokenText, name: Span, declared: Sequence[str]) -> dict[str, float]:
    """``name_joint``, ``name_branch``, ``name_margin``, ``name_choice``. Without declared names every token is a choice."""
    over = tokens.indices_in(name)
    joint = math.exp(sum(tokens.rows[index].nats for index in over))
    if not declared:
        return {"name_joint": joint, "name_branch": joint}
    branching = [choice for choice in _choices(tokens, name, frozenset(declared)) if choice.parts]
    measures = {"name_joint": joint, "name_branch": math.exp(sum(choice.row.nats for choice in branching))}
    if branching and branching[0].row.alternatives():
        measures |= _compare_alternatives(branching[0])
    return measures


def _choices(tokens: TokenText, name: Span, declared: frozenset[str]) -> Iterator[Choice]:
    over = tokens.indices_in(name)
    if tokens.end(over[-1]) == name.end and over[-1] + 1 < len(tokens.rows):
        over.append(over[-1] + 1)
    for index in over:
        start = tokens.starts[index]
        prefix = tokens.text[name.start : min(max(start, name.start), name.end)]
        possible = frozenset(candidate for candidate in declared if candidate.startswith(prefix))
        if not possible:
            return
        yield Choice(tokens.rows[index], prefix, tokens.text[start : max(start, name.start)], possible)


def _compare_alternatives(choice: Choice) -> dict[str, float]:
    alternatives = choice.row.alternatives()
    chosen = choice.left(choice.row.token)
    left = {text: choice.left(text) for text in alternatives}
    competitors = [text for text in alternatives if left[text] - chosen and left[text] != choice.possible]
    margin = choice.row.nats - max(alternatives[text] for text in competitors or alternatives)
    # The same names can be begun with other tokens; that is the same choice.
    same = sum(math.exp(alternatives[text]) for text in alternatives if left[text] and left[text] <= chosen)
    other = sum(math.exp(alternatives[text]) for text in competitors)
    own = choice.row.probability + same
    return {
        "name_margin": max(-MAX_MARGIN, min(MAX_MARGIN, margin)),
        "name_choice": own / (own + other) if own + other > 0.0 else 0.0,
    }
