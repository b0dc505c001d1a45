"""The ticketing API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retrycli.doctor.case import Case, compared_clocks
from retrycli.finding import Finding, failure, warning, well
from retrycli.outcome import OUTAGE, OutcomeKind
from retrycli.settings import Gateway

if TYPE_CHECKING:
    from retrycli.gateway.probe import Probe


def api(case: Case) -> Iterator[Finding]:
    """Whether the ticketing API is there and takes our credentials, as far as can be told without a message."""
    from retrycli.gateway.probe import probe

    gateway = case.settings.gateway
    found = asyncio.run(probe(gateway, now=case.now))
    yield _answer(case, found)
    if found.ahead_seconds is not None:
        yield compared_clocks("the ticketing API", timedelta(seconds=found.ahead_seconds))
    parts = urlsplit(gateway.destination)
    if parts.scheme == "http" and has_credentials(gateway) and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        yield warning(
            "api", f"our credentials go to {gateway.destination} unencrypted", "give gateway.base_url as https://"
        )


def _answer(case: Case, found: Probe) -> Finding:
    gateway, outcome = case.settings.gateway, found.outcome
    where, said = gateway.destination, outcome.error
    if outcome.kind is OutcomeKind.UNAUTHORIZED and outcome.status_code is None:
        return failure("api", f"{where} has a certificate that does not verify: {said}", "set gateway.ca_file")
    if outcome.kind is OutcomeKind.UNAUTHORIZED and not has_credentials(gateway):
        return warning("api", f"{where} asks for credentials ({said}), and there are none", "set gateway.auth")
    if outcome.kind is OutcomeKind.UNAUTHORIZED:
        return failure("api", f"{where} refuses our credentials: {said}", "mend them: `retrycli config show`")
    if outcome.status_code is None and outcome.kind in OUTAGE:
        return failure("api", f"{where} can't be reached: {said}", "see to the network, or mend gateway.base_url")
    if outcome.kind in {*OUTAGE, OutcomeKind.THROTTLED}:
        return warning("api", f"{where} is in trouble: {said}", "see to the API; passes find out when it is back")
    if found.proves_credentials and outcome.kind is OutcomeKind.DELIVERED:
        return well("api", f"{where} is there and takes our credentials")
    proof = "; whether it takes our credentials shows with the first message" if has_credentials(gateway) else ""
    return well("api", f"{where} is there (it answers {said} to a GET){proof}")


def has_credentials(gateway: Gateway) -> bool:
    """Whether requests bear any."""
    return gateway.auth != "none" and any((gateway.token, gateway.username, gateway.password))
