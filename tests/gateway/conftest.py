"""Certificates, made by the openssl command, and a check for connections that are left open."""

from __future__ import annotations

import gc
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.hostile import LOOPBACK

AUTHORITY = """
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""
"""The configuration that `openssl ca` needs to sign a certificate with a chosen validity."""


def _openssl(folder: Path, *arguments: str) -> None:
    command = shutil.which("openssl")
    if command is None:
        pytest.skip("needs the openssl command to make a certificate")
    subprocess.run([command, *arguments], cwd=folder, check=True, capture_output=True)


def _signed_by_itself(folder: Path, since: str, until: str) -> Path:
    """Create a self-signed certificate for 127.0.0.1, with its key in the same file."""
    (folder / "ca.cnf").write_text(AUTHORITY)
    (folder / "index.txt").touch()
    new_key = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "key.pem")
    names = ("-subj", "/CN=retrycli test", "-addext", f"subjectAltName=IP:{LOOPBACK}")
    _openssl(folder, "req", "-new", *new_key, *names, "-out", "asked.pem")
    days = ("-startdate", since, "-enddate", until)
    signing = ("-config", "ca.cnf", "-batch", "-selfsign", "-notext", "-rand_serial", "-keyfile", "key.pem")
    _openssl(folder, "ca", *signing, *days, "-in", "asked.pem", "-out", "cert.pem")
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a certificate that is valid for clients that trust it."""
    return _signed_by_itself(tmp_path_factory.mktemp("tls"), "20250101000000Z", "20991231235959Z")


@pytest.fixture(scope="session")
def expired_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _signed_by_itself(tmp_path_factory.mktemp("expired"), "20250101000000Z", "20250102000000Z")


def speaking(certificate: Path) -> ssl.SSLContext:
    """Return the server's TLS context for a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """Provide the server's TLS context for the valid certificate."""
    return speaking(certificate)


@pytest.fixture(scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """Check that no connection outlives its event loop; Python reports one only at garbage collection.

    The check runs once per module, because it takes as long as ten tests.
    """
    yield
    gc.collect()
