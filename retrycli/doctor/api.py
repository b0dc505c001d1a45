"""The ticketing API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from retrycli.doctor.case import Case, compared_clocks
from retrycli.finding import Finding, failure, warning, well
from retrycli.outcome import OUTAGE, Outcome, OutcomeKind


def api(case: Case) -> Iterator[Finding]:
    """Whether the ticketing API is there and takes our credentials, as far as can be told without a message."""
    from retrycli.gateway.probe import probe

    gateway = case.settings.gateway
    found = asyncio.run(probe(gateway, now=case.now))
    yield _answer(case, found.outcome)
    if found.ahead_seconds is not None:
        yield compared_clocks("the ticketing API", timedelta(seconds=found.ahead_seconds))
    parts = urlsplit(gateway.destination)
    if parts.scheme == "http" and gateway.auth != "none" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        yield warning(
            "api", f"our credentials go to {gateway.destination} unencrypted", "give gateway.base_url as https://"
        )


def _answer(case: Case, outcome: Outcome) -> Finding:
    gateway = case.settings.gateway
    where, said = gateway.destination, outcome.error
    if outcome.kind is OutcomeKind.UNAUTHORIZED and outcome.status_code is None:
        return failure("api", f"{where} has a certificate that does not verify: {said}", "set gateway.ca_file")
    if outcome.kind is OutcomeKind.UNAUTHORIZED and gateway.auth == "none":
        return warning("api", f"{where} asks for credentials ({said}), and gateway.auth is none", "set gateway.auth")
    if outcome.kind is OutcomeKind.UNAUTHORIZED:
        return failure("api", f"{where} refuses our credentials: {said}", "mend them: `retrycli config show`")
    if outcome.status_code is None and outcome.kind in OUTAGE:
        return failure("api", f"{where} can't be reached: {said}", "see to the network, or mend gateway.base_url")
    if outcome.kind in {*OUTAGE, OutcomeKind.THROTTLED}:
        return warning("api", f"{where} is in trouble: {said}", "see to the API; passes find out when it is back")
    if gateway.auth == "login":
        return well("api", f"{where} is there and takes our log-in")
    proof = "" if gateway.auth == "none" else "; whether it takes our credentials shows with the first message"
    return well("api", f"{where} is there (it answers {said} to a GET){proof}")
