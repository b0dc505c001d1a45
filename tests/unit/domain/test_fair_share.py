"""Fair shares: how many due messages of each ticket a claim selects."""

from __future__ import annotations

from retrycli.domain.fair_share import MAX_PASSED_OVER, FairShare

AT_ONCE = 16


def candidates(*tickets: str | None) -> list[tuple[int, str | None]]:
    return list(enumerate(tickets, 1))


def test_selects_everything_if_each_ticket_has_few_messages() -> None:
    turns = FairShare(AT_ONCE)
    assert turns.take(candidates("a", "b", "a", "c")) == [1, 2, 3, 4]
    assert turns.passed_over == frozenset()


def test_selects_an_eighth_from_a_large_ticket_and_skips_the_rest() -> None:
    turns = FairShare(AT_ONCE)
    assert turns.take(candidates("a", "a", "a", "b", "a")) == [1, 2, 4]
    assert turns.passed_over == {"a"}


def test_each_round_doubles_a_tickets_share_up_to_a_half() -> None:
    turns = FairShare(AT_ONCE)
    taken = []
    for _ in range(5):
        taken.append(len(turns.take(candidates(*["a"] * AT_ONCE))))
        assert turns.widen()
    assert taken == [2, 4, 8, 8, 8]


def test_a_round_that_skips_nothing_is_the_last() -> None:
    """A message without a ticket is always selected, and at least one of the smallest batch."""
    turns = FairShare(AT_ONCE)
    assert turns.take(candidates("a", "b", *[None] * AT_ONCE)) == list(range(1, AT_ONCE + 3))
    assert not turns.widen()
    assert FairShare(1).take(candidates("a", "a")) == [1]


def test_skips_at_most_as_many_tickets_as_a_statement_accepts() -> None:
    turns = FairShare(AT_ONCE)
    turns.passed_over = frozenset(map(str, range(MAX_PASSED_OVER + 1)))
    turns.take([])
    assert turns.passed_over == frozenset()
