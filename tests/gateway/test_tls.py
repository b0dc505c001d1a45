"""HTTPS: whom we talk to is checked before a message leaves."""

from __future__ import annotations

import gc
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrycli.errors import ConfigurationError
from retrycli.outcome import Outcome, OutcomeKind
from tests.gateway.deliveries import deliver, deliver_in_turn, deliver_together, gateway_settings, queued
from tests.gateway.hostile import (
    LOOPBACK,
    SUCCEEDED,
    Behaviour,
    Hostile,
    answer,
    close,
    deafness,
    http,
    mute_port,
    raw,
    reset,
    then_close,
)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself vouches for, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=retrycli test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", f"subjectAltName=IP:{LOOPBACK}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + cert.read_text())
    return both


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """A connection that outlives its event loop is only seen when it is collected, and then as an error."""
    yield
    gc.collect()


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_nobody_vouches_for_stops_the_pass(tls: ssl.SSLContext) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.UNAUTHORIZED, None)
    assert "self-signed certificate" in (outcome.error or "").replace("self signed", "self-signed")
    assert not server.requests
    assert len(server.connections) == 1


def test_a_certificate_that_the_ca_file_vouches_for(tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url, ca_file=certificate))
    assert outcome == Outcome(OutcomeKind.DELIVERED, 200)
    assert len(server.requests) == 1


def test_a_scheme_may_be_written_large(tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url.replace("https", "HTTPS"), ca_file=certificate))
    assert outcome == Outcome(OutcomeKind.DELIVERED, 200)


def test_a_certificate_of_another_host_stops_the_pass(tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(f"https://localhost:{server.port}", ca_file=certificate))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert not server.requests


def test_a_log_in_asks_for_the_certificate_too(tls: ssl.SSLContext) -> None:
    """The password goes to nobody who can't prove who he is."""
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url, auth="login", username="agent", password="geheim"))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert (outcome.error or "").startswith("log-in: ")
    assert not server.requests


def test_connections_are_kept_and_closed(tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(answer(200, SUCCEEDED), tls=tls) as server:
        settings = gateway_settings(server.url, ca_file=certificate)
        assert {each.kind for each in deliver_in_turn(settings, *[queued()] * 5)} == {OutcomeKind.DELIVERED}
        assert len(server.connections) == 1
        assert {each.kind for each in deliver_together(settings, *[queued()] * 8)} == {OutcomeKind.DELIVERED}
    assert len(server.requests) == 13


@pytest.mark.parametrize(
    "behaviour",
    [
        close,
        reset,
        deafness,
        raw(http(200, SUCCEEDED, length=500)),
        then_close(http(200, SUCCEEDED, length=500)),
    ],
    ids=["closed", "reset", "deafness", "silence in the body", "half a body"],
)
def test_what_breaks_after_the_request_is_unknown(behaviour: Behaviour, tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(behaviour, tls=tls) as server:
        outcome = deliver(gateway_settings(server.url, ca_file=certificate, request_timeout_seconds=1))
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert len(server.requests) == 1


def test_a_long_answer_is_not_read(tls: ssl.SSLContext, certificate: Path) -> None:
    with Hostile(answer(500, b"a" * 10_000_000), tls=tls) as server:
        outcome = deliver(gateway_settings(server.url, ca_file=certificate))
    assert outcome.kind is OutcomeKind.TRANSIENT
    assert server.sent < 10_000_000 / 4


def test_a_handshake_that_does_not_end_leaves_the_message_unsent() -> None:
    with mute_port() as port:
        outcome = deliver(gateway_settings(f"https://{LOOPBACK}:{port}", connect_timeout_seconds=0.2))
    assert outcome.kind is OutcomeKind.UNREACHABLE


def test_a_handshake_with_a_plain_server_leaves_the_message_unsent() -> None:
    """To it the handshake is the start of a request that never ends."""
    with Hostile(answer(200, SUCCEEDED)) as server:
        outcome = deliver(gateway_settings(f"https://{LOOPBACK}:{server.port}", connect_timeout_seconds=0.2))
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert not server.requests


def test_a_ca_file_must_hold_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind")
    for each in (file, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match=rf"gateway\.ca_file: can't use {each}"):
            deliver(gateway_settings("https://127.0.0.1:1", ca_file=each))
