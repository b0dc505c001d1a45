"""Choose the recipients of a mail."""

from __future__ import annotations

from retrycli.domain.email_address import Address
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message, MessageType


def recipients(
    message: Message, fixed: Address | None
) -> tuple[tuple[Address, ...], tuple[Address, ...], tuple[Address, ...]]:
    """Return To, Cc and Bcc. An internal note never goes to the addresses of its row, because they are customers.

    Args:
        message: the message.
        fixed: ``gateway.recipient``.

    Raises:
        InvalidMessage: there is no recipient, or an address is invalid.
    """
    if message.message_type is MessageType.INTERNAL:
        if fixed is None:
            raise InvalidMessage(
                "an internal message goes to gateway.recipient alone, which is not set; set it to the team's address"
            )
        return (fixed,), (), ()
    named = message.fields.get("recipient_email")
    to = fixed if named is None or named == "" else _address("recipient_email", named)
    if to is None:
        raise InvalidMessage("recipient_email is missing, and gateway.recipient is not set; set one of the two")
    cc, bcc = (
        tuple(_address(column, value) for value in _listed(message, column)) for column in ("cc_emails", "bcc_emails")
    )
    return (to,), cc, bcc


def _listed(message: Message, column: str) -> list[object]:
    found = message.fields[column]
    assert isinstance(found, list)  # noqa: S101  told to the type checker
    return found


def _address(column: str, value: object) -> Address:
    if not isinstance(value, str):
        raise InvalidMessage(f"{column} has something else than a text: {value!r:.40}")
    try:
        return Address.parse(value)
    except ValueError as error:
        raise InvalidMessage(f"{column} has no e-mail address: {value!r:.80}: {error}") from None
