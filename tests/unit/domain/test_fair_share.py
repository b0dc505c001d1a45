"""Whose turn it is among due messages."""

from __future__ import annotations

from retrycli.domain.fair_share import MAX_PASSED_OVER, FairShare

AT_ONCE = 16


def candidates(*tickets: str | None) -> list[tuple[int, str | None]]:
    return list(enumerate(tickets, 1))


def test_where_each_ticket_has_a_few_messages_all_are_taken() -> None:
    turns = FairShare(AT_ONCE)
    assert turns.take(candidates("a", "b", "a", "c")) == [1, 2, 3, 4]
    assert turns.passed_over == frozenset()


def test_of_a_ticket_with_many_an_eighth_is_taken_and_it_is_passed_over() -> None:
    turns = FairShare(AT_ONCE)
    assert turns.take(candidates("a", "a", "a", "b", "a")) == [1, 2, 4]
    assert turns.passed_over == {"a"}


def test_each_round_takes_twice_as_many_of_a_ticket_up_to_a_half() -> None:
    turns = FairShare(AT_ONCE)
    taken = []
    for _ in range(5):
        taken.append(len(turns.take(candidates(*["a"] * AT_ONCE))))
        assert turns.widen()
    assert taken == [2, 4, 8, 8, 8]


def test_a_round_with_nobody_passed_over_is_the_last() -> None:
    turns = FairShare(AT_ONCE)
    turns.take(candidates("a", "b"))
    assert not turns.widen()


def test_of_a_message_whose_ticket_is_not_known_it_is_always_the_turn() -> None:
    assert FairShare(AT_ONCE).take(candidates(*[None] * AT_ONCE)) == list(range(1, AT_ONCE + 1))


def test_something_is_taken_however_few_are_taken_at_once() -> None:
    assert FairShare(1).take(candidates("a", "a")) == [1]


def test_no_more_tickets_are_passed_over_than_a_statement_takes() -> None:
    turns = FairShare(AT_ONCE)
    turns.passed_over = frozenset(map(str, range(MAX_PASSED_OVER + 1)))
    turns.take([])
    assert turns.passed_over == frozenset()
