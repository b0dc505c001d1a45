"""E-mail addresses: valid spellings, and refused ones such as attempts to inject headers."""

from __future__ import annotations

import pytest

from retrycli.domain.email_address import Address, split_addresses
from retrycli.domain.errors import InvalidMessage

TAKEN = {
    "ana@example.com": ("ana", "example.com", ""),
    " ana@Example.COM ": ("ana", "example.com", ""),
    "<ana@example.com>": ("ana", "example.com", ""),
    "Ana <ana@example.com>": ("ana", "example.com", "Ana"),
    '"Ana, Sales \\"A\\"" <ana@example.com>': ("ana", "example.com", 'Ana, Sales "A"'),
    "Zoë <a.b+c=d@x>": ("a.b+c=d", "x", "Zoë"),
    "josé@bücher.example": ("josé", "xn--bcher-kva.example", ""),
    "a@straße.example": ("a", "xn--strae-oqa.example", ""),
}


@pytest.mark.parametrize("text", TAKEN)
def test_accepts_an_address_with_or_without_a_name(text: str) -> None:
    """IDNA 2008 keeps the ß. Under IDNA 2003, the mail would go to strasse.example, which may have another owner."""
    assert Address.parse(text) == Address(*TAKEN[text])


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [("Ana <Ana@x>", "aNA@X", True), ("strasse@x", "straße@x", False), ("kit@x", "\u212ait@x", False)],
)
def test_two_addresses_are_one_mailbox_if_only_the_case_of_ascii_letters_differs(
    one: str, other: str, *, is_same: bool
) -> None:
    assert (Address.parse(one).key == Address.parse(other).key) is is_same


@pytest.mark.parametrize(
    "text",
    [
        *("", "ana", "@example.com", "ana@", "ana@example..com", "ana@-example.com", "ana@[127.0.0.1]"),
        *("a..b@example.com", ".a@example.com", "an a@example.com", "ana\\@example.com", '"a b"@example.com'),
        "ana@example.com, bo@example.com",
        "Ana <ana@example.com",
        "Ana ana@example.com>",
        "Ana, Sales <ana@example.com>",
        "Ana <ana@example.com> <bo@example.com>",
        "Team: ana@example.com;",
        "ana@example.com\r\nBcc: eve@example.com",
        "Ana\x00 <ana@example.com>",
        "ana@exa\x85mple.com",
        "ana@example.com (Ana)",
        f"{'a' * 65}@example.com",
        f"ana@{'a.' * 126}example",
        f"{' ' * 100_000}ana@example.com",
    ],
)
def test_rejects_invalid_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the (address|domain) |^write an address such as"):
        Address.parse(text)


def test_a_list_holds_each_address_once_and_has_a_greatest_length() -> None:
    assert split_addresses("c@b.test, " + "a@b.test, " * 3000, ",") == ["c@b.test", "a@b.test"]
    with pytest.raises(InvalidMessage, match="recipient_email has more than 32,000 characters"):
        split_addresses("a@b.test, " * 4000, ",")


def test_an_empty_list_of_addresses_is_no_recipient() -> None:
    """A column that is never null may be empty for notes, which have no recipient."""
    assert [split_addresses(text, ";") for text in ("", " ", ";", " ;\n; ")] == [[]] * 4
    with pytest.raises(InvalidMessage, match="recipient_email has no address"):
        split_addresses("()", ";")
