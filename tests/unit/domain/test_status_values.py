"""Which values of a status column are shown: a text column may hold customers' words."""

from __future__ import annotations

import pytest

from retrycli.domain.known_table import LARGEST, LONGEST, ShownValues, TableColumn, ValueKind, shown_values

TEXT = TableColumn("status", ValueKind.TEXT)
NUMBER = TableColumn("status", ValueKind.INTEGER)
FLAG = TableColumn("is_sent", ValueKind.BOOLEAN)
LABELS = TableColumn("status", ValueKind.ENUM, ("new", "a rather long label, with a comma"))


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([("FAILED", 1), ("Not Sent", 1), ("in-progress", 1)], {"FAILED", "Not Sent", "in-progress"}),
        ([("S1", 3), ("S2", 2)], {"S1"}),
        ([("S1", 3), ("x" * LONGEST, 3)], {"S1", "x" * LONGEST}),
        ([("S1", 3), ("x" * (LONGEST + 1), 3)], set()),
        ([("S1", 3), ("why is it late?", 1)], set()),
        ([("S1", 3), ("anna@example.com", 9)], set()),
        ([("S1", 3), ("4711", 9)], set()),
        ([("S1", 3), ("failed", 1), ("Dear\nBob", 1)], {"failed"}),
        ([("1", 3), ("200", 3)], {"1", "200"}),
        ([(f"S{number}", 9) for number in range(21)], set()),
    ],
)
def test_a_text_is_shown_only_if_it_looks_like_a_status(counts: list[tuple[object, int]], shown: set[str]) -> None:
    found = shown_values(counts, TEXT)
    assert set(dict(found.counts)) == shown
    assert found.hidden == sum(rows for value, rows in counts if value not in shown)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (("Oyelaran", "Dear B"), set()),
        (("failed", "Held up"), {"failed", "Held up"}),
        (("1", "2"), {"1", "2"}),
        ((1, 2), {1, 2}),
    ],
)
def test_a_text_of_a_column_that_no_setting_names_is_shown_only_beside_a_common_word(
    values: tuple[str | int, ...], shown: set[str | int]
) -> None:
    column = NUMBER if isinstance(values[0], int) else TEXT
    assert set(dict(shown_values([(value, 9) for value in values], column, is_status=False).counts)) == shown


def test_small_numbers_are_shown() -> None:
    assert shown_values([(2, 1), (1, 1), (0, 5), (LARGEST, 3)], NUMBER).counts == ((0, 5), (LARGEST, 3), (1, 1), (2, 1))
    assert shown_values([(2, 1), (LARGEST + 1, 5)], NUMBER) == ShownValues((), 6)


def test_flags_are_truth_values_in_both_databases() -> None:
    for counts in ([(1, 2), (None, 3)], [(True, 2), (None, 3)]):
        assert repr(shown_values(counts, FLAG)) == repr(ShownValues(((True, 2), (False, 0)), 0, 3))
    assert repr(shown_values([(0, 2)], FLAG)) == repr(ShownValues(((False, 2), (True, 0))))


def test_labels_of_an_enumeration_are_shown_with_their_counts() -> None:
    assert shown_values([("new", 1)], LABELS).counts == (("new", 1), ("a rather long label, with a comma", 0))


def test_bytes_are_not_shown() -> None:
    assert shown_values([(b"failed", 9)], TEXT) == ShownValues((), 9)
