"""HTTPS: the server is verified before a message is sent."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from tests.gateway.deliveries import deliver, deliver_in_turn, deliver_together, gateway_settings, queued
from tests.gateway.hostile import SUCCEEDED, Hostile, answer

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


def test_a_login_checks_the_certificate_too(tls: ssl.SSLContext) -> None:
    """The password is never sent to an unverified server."""
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url, auth="login", username="agent", password="geheim"))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert (outcome.error or "").startswith("log-in: ")
    assert not server.requests


def test_connections_to_a_server_trusted_by_the_ca_file_are_kept_and_closed(
    tls: ssl.SSLContext, certificate: Path
) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        settings = gateway_settings(server.url.replace("https", "HTTPS"), ca_file=certificate)
        assert {outcome.kind for outcome in deliver_in_turn(settings, *[queued()] * 5)} == {OutcomeKind.DELIVERED}
        assert len(server.connections) == 1
        assert {outcome.kind for outcome in deliver_together(settings, *[queued()] * 8)} == {OutcomeKind.DELIVERED}
    assert len(server.requests) == 13


def test_a_ca_file_must_contain_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind")
    reasons = {
        file: "not a valid file of PEM certificates",
        tmp_path / "missing.pem": "No such file or directory",
        tmp_path / "\0": "not a valid path",
    }
    for content, reason in reasons.items():
        with pytest.raises(ConfigurationError, match=rf"gateway\.ca_file: can't use {content}: {reason}$"):
            deliver(gateway_settings("https://127.0.0.1:1", ca_file=content))
