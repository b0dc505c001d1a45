"""Send post-office's mails through httpx, with one client per thread.

The module is separate because Django imports it only when there is something to send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from django.conf import settings  # type: ignore[import-untyped]
from django.core.mail.backends.base import BaseEmailBackend  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Sequence

TLS = httpx.create_ssl_context()
"""Created once, because post-office opens a backend for every thread of every batch."""


class HttpBackend(BaseEmailBackend):  # type: ignore[misc]
    """A mail backend that posts each mail as the bare loop posts a message. An HTTP error makes the mail fail."""

    client: httpx.Client

    def open(self) -> bool:
        self.client = httpx.Client(verify=TLS)
        return True

    def close(self) -> None:
        self.client.close()

    def send_messages(self, email_messages: Sequence[Any]) -> int:
        for mail in email_messages:
            fields = {"ticket_id": mail.to[0], "subject": mail.subject, "body": mail.body}
            self.client.post(settings.BENCHMARK_URL, json=fields).raise_for_status()
        return len(email_messages)
