"""Where messages go: the ticketing API, or the mail server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retrycli.doctor.case import Case, compared_clocks
from retrycli.finding import Finding, failure, warning, well
from retrycli.gateways import OneGateway
from retrycli.outcome import OUTAGE, OutcomeKind

if TYPE_CHECKING:
    from retrycli.gateway.probe import Probe


def api(case: Case) -> Iterator[Finding]:
    """Whether each is there and takes our credentials, as far as can be told without a message."""
    for gateway in case.settings.gateway.all.values():
        yield from _mail_server(gateway) if gateway.kind == "smtp" else _ticketing_api(case, gateway)


def _mail_server(gateway: OneGateway) -> Iterator[Finding]:
    from retrycli.gateway.smtp import ask

    found = asyncio.run(ask(gateway))
    where, said = gateway.destination, found.error
    if found.kind is OutcomeKind.UNAUTHORIZED and found.status_code is not None:
        yield failure("smtp", f"{where} refuses us: {said}", "mend gateway.username and gateway.password")
    elif found.kind is OutcomeKind.UNAUTHORIZED:
        yield failure(
            "smtp", f"{where} can't be trusted with a mail: {said}", "set gateway.ca_file, or mend the server"
        )
    elif found.kind is OutcomeKind.UNREACHABLE:
        yield failure("smtp", f"{where} can't be reached: {said}", "see to the network, or mend gateway.base_url")
    elif found.kind is not OutcomeKind.DELIVERED:
        yield warning("smtp", f"{where} is in trouble: {said}", "see to the server; passes find out when it is back")
    else:
        yield well("smtp", f"{where} is there" + (" and takes our log-in" if gateway.username else ""))
    if gateway.username and not gateway.starttls and not _is_here(where) and not where.startswith("smtps:"):
        yield warning("smtp", f"our password goes to {where} unencrypted", "leave gateway.starttls at true")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}


def _ticketing_api(case: Case, gateway: OneGateway) -> Iterator[Finding]:
    from retrycli.gateway.probe import probe

    found = asyncio.run(probe(gateway, now=case.now))
    yield _answer(gateway, found)
    if found.ahead_seconds is not None:
        yield compared_clocks("the ticketing API", timedelta(seconds=found.ahead_seconds))
    in_the_clear = gateway.destination.startswith("http:") and not _is_here(gateway.destination)
    if in_the_clear and has_credentials(gateway):
        yield warning(
            "api", f"our credentials go to {gateway.destination} unencrypted", "give gateway.base_url as https://"
        )


def _answer(gateway: OneGateway, found: Probe) -> Finding:
    outcome = found.outcome
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


def has_credentials(gateway: OneGateway) -> bool:
    """Whether requests bear any."""
    return gateway.auth != "none" and any((gateway.token, gateway.username, gateway.password))
