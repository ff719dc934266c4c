"""The table of cards: no figure without a document, and figures that belong together."""

from __future__ import annotations

import pytest

from joulebench.analysis.bottlenecks.cards import CARDS, Card

each = pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))


@each
def test_every_card_names_where_its_figures_were_seen(card: Card) -> None:
    assert card.sources
    assert all(source.startswith("https://") for source in card.sources)


@each
def test_figures_are_those_of_a_card_and_not_of_its_neighbour_in_the_table(card: Card) -> None:
    """Reading the whole memory takes between 15 and 100 ms on all of them."""
    assert 0.015 <= card.memory_gib / card.bandwidth <= 0.1
    assert card.ridge is None or 100 <= card.ridge <= 500


def test_a_card_whose_arithmetic_is_not_known_has_no_ridge() -> None:
    assert Card(24, 600, None, ("https://example.org",)).ridge is None
    assert Card(24, 600, 120, ("https://example.org",)).ridge == 200.0
