"""The table of cards: no figure without a document, and figures that belong together."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from joulebench.analysis.bottlenecks.roofline import CARDS, CardSpec

each = pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))


@each
def test_every_card_names_the_document_of_its_maker(card: CardSpec) -> None:
    host = urlsplit(card.source).hostname or ""
    assert host == "nvidia.com" or host.endswith(".nvidia.com")


@each
def test_figures_are_those_of_a_card_and_not_of_its_neighbour_in_the_table(card: CardSpec) -> None:
    """Reading the whole memory takes between 15 and 100 ms on all of them."""
    assert 0.015 <= card.memory_gib / card.bandwidth <= 0.1
    assert card.ridge is None or 100 <= card.ridge <= 500


def test_a_card_whose_arithmetic_is_not_known_has_no_ridge() -> None:
    assert CardSpec(24, 600, None, "https://example.org").ridge is None
    assert CardSpec(24, 600, 120, "https://example.org").ridge == 200.0
