"""A mail server's reply, and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrycli.domain.outcome import OutcomeKind

SHUTTING_DOWN = 421
ASKS_FOR_LOG_IN = frozenset({530, 534, 535})
"""Log-in wanted, stronger log-in wanted, log-in refused (RFC 4954, section 6)."""
BAD_CREDENTIALS = "5.7.8"
"""The same as an enhanced code, which is of use where the basic code is a mere 550 (RFC 4954, section 6)."""
ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")
QUEUED_AS = re.compile(r"(?:queued as |id=)([\w.+-]{1,100})", re.IGNORECASE)
"""As Postfix, Exim and Exchange write it."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply, its lines joined by spaces."""

    code: int
    text: str

    @classmethod
    def of(cls, answer: tuple[int, bytes | str]) -> SmtpReply:
        """What smtplib gives as a code and text."""
        code, text = answer
        return cls(code, " ".join((text if isinstance(text, str) else text.decode("utf-8", "replace")).split()))

    @property
    def good(self) -> bool:
        """Whether it is a yes: the class 2yz (RFC 5321, section 4.2.1)."""
        return self.code // 100 == 2  # noqa: PLR2004  that class

    @property
    def kind(self) -> OutcomeKind:
        """What a no, or an answer that is none, comes to.

        The enhanced code decides where there is one, for servers are known to give a basic code of the other class
        (RFC 3463, section 2: the class says whether it is worth another try).
        """
        enhanced = ENHANCED.match(self.text)
        if self.code in ASKS_FOR_LOG_IN or (enhanced and enhanced[0] == BAD_CREDENTIALS):
            return OutcomeKind.UNAUTHORIZED
        lasting = enhanced[1] if enhanced and enhanced[1] != "2" else str(self.code)[0]
        if self.code == SHUTTING_DOWN or lasting != "5":
            return OutcomeKind.TRANSIENT
        return OutcomeKind.PERMANENT

    @property
    def queued_as(self) -> str | None:
        """What the server calls the mail that it took, where it says so as most do."""
        found = QUEUED_AS.search(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"SMTP {self.code} {self.text}".rstrip()
