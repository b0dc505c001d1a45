"""`retrycli serve` as a process, and the commands for its users' tokens."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cli.command import LONGEST, end, wait_until
from tests.conftest import on_sqlite
from tests.users import SHARED, THEIRS, need_root
from tests.web.conftest import API, HOST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Cli

pytestmark = on_sqlite

STATUS = f"{API}/scheduler/status"


@pytest.fixture
def served(at_work: Cli, tmp_path: Path) -> Cli:
    """Provide the command with settings for a tokens' file and a host name."""
    return at_work.having(
        {"RETRYCLI_WEB__TOKENS_FILE": str(tmp_path / "tokens.json"), "RETRYCLI_WEB__ALLOWED_HOSTS": HOST}
    )


def add_token(cli: Cli, name: str = "anna", role: str = "operator") -> str:
    return cli("serve", "token", "add", name, "--role", role).stdout.strip()


@contextmanager
def serving(cli: Cli, *options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``serve`` for a `with` block, and end it."""
    process = cli.start("serve", *options)
    try:
        yield process
    finally:
        process.terminate()
        end(process)


@contextmanager
def listening(cli: Cli, uds: Path, *options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``serve`` over a Unix socket for a `with` block, which begins when it listens."""
    with serving(cli, "--uds", uds, *options) as process:
        wait_until(lambda: is_listening(uds), process)
        yield process


def over(uds: Path, **headers: str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(uds))
    return httpx.Client(transport=transport, base_url=f"http://{HOST}", headers=headers, timeout=LONGEST)


def address_of(process: subprocess.Popen[str]) -> str:
    """Return the address that a server prints when it listens, without its path."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving the console at http://127.0.0.1:"), line
    return line.split()[-1].removesuffix("/messages/")


def test_it_serves_over_tcp_until_it_is_terminated(served: Cli, tmp_path: Path) -> None:
    """The option overrides the socket of the settings."""
    token = add_token(served)
    with serving(served.having({"RETRYCLI_WEB__UDS": str(tmp_path / "desk.sock")}), "--port", "0") as process:
        url = address_of(process) + STATUS
        assert httpx.get(url, trust_env=False, timeout=LONGEST).status_code == 401
        body = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=LONGEST).json()
        assert sorted(body) == ["max_retries", "next_run", "retry_interval_minutes", "running"]
    assert process.returncode == 143


UPGRADE = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".encode()


def test_requests_that_are_not_http_and_ctrl_c_write_no_log(served: Cli) -> None:
    """Otherwise anybody who reaches the port could fill the disk."""
    add_token(served)
    process = served.start("serve", "--port", "0")
    port = int(address_of(process).rpartition(":")[2])
    for request in (b"\x16\x03\x01\r\n\r\n", UPGRADE):
        with socket.create_connection(("127.0.0.1", port), LONGEST) as connection:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 ")
    process.send_signal(signal.SIGINT)
    done = end(process)
    assert (done.returncode, done.stderr) == (130, "")


def test_what_can_not_be_used_is_one_clear_error(served: Cli, tmp_path: Path) -> None:
    add_token(served)
    file, key = tmp_path / "tokens.json", tmp_path / "tokens.json.key"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = served("serve", "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 78
    assert "can't listen on 127.0.0.1" in refused.stderr
    assert "--port" in refused.stderr
    refused = served("serve", "--uds", file)
    assert (refused.returncode, "it is not a socket" in refused.stderr, file.exists()) == (78, True, True)
    refused = served.having({"RETRYCLI_WEB__USER_HEADER": "X-Remote-User"})("serve")
    assert (refused.returncode, "needs a Unix socket" in refused.stderr) == (78, True)
    for path in ("desk", "/desk/", "/messages", "/api/x", "/a b"):
        refused = served("serve", "--root-path", path)
        assert (refused.returncode, "--root-path" in refused.stderr, "such as /desk" in refused.stderr) == (
            2,
            True,
            True,
        )
    for content in (b"", b"\xff" * 64, b"0" * 63, b"0" * 66):
        key.write_bytes(content)
        refused = served("serve", "--port", "0")
        assert (refused.returncode, "tokens.json.key is not a signing key" in refused.stderr) == (78, True)
        assert "Traceback" not in refused.stderr


def test_without_a_usable_token_file_it_does_not_start(served: Cli, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    texts = {None: "does not exist", "": "is not valid", '{"tokens": []}': "has no token"}
    for text, said in texts.items():
        if text is not None:
            file.write_text(text)
            file.chmod(0o600)
        for host in ("127.0.0.1", "0.0.0.0"):
            done = served("serve", "--host", host, "--port", "0")
            assert (done.returncode, said in done.stderr) == (78, True), done.stderr
            assert "retrycli serve token add" in done.stderr
    unset = served.having({"RETRYCLI_WEB__TOKENS_FILE": ""})
    assert unset("serve").returncode == 78


def test_it_serves_over_a_unix_socket_that_others_can_not_open(served: Cli, tmp_path: Path) -> None:
    token, uds = add_token(served), tmp_path / "desk.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(uds))
    with listening(served, uds), over(uds) as client:
        assert client.get(STATUS, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert stat.S_IMODE(uds.stat().st_mode) == 0o660
        second = served("serve", "--uds", uds)
        assert (second.returncode, "can't listen" in second.stderr) == (78, True)
        assert client.get("/livez").status_code == 200
    assert not uds.exists()


def test_the_address_in_the_log_is_the_one_that_the_proxy_has_appended(served: Cli, tmp_path: Path) -> None:
    """A proxy may append it to what the client has sent."""
    add_token(served)
    uds, log = tmp_path / "desk.sock", tmp_path / "console.log"
    with listening(served.having({"RETRYCLI_LOGGING__FILE": str(log)}), uds), over(uds) as client:
        for addresses in ("6.6.6.6, 192.0.2.7", "192.0.2.8", ""):
            credentials = {"Authorization": "Bearer x", **({"X-Forwarded-For": addresses} if addresses else {})}
            assert client.get(STATUS, headers=credentials).status_code == 401
    seen = [line.rpartition("from ")[2] for line in log.read_text().splitlines() if "Refused an invalid" in line]
    assert seen == ["192.0.2.7", "192.0.2.8", "the socket"]


def is_listening(uds: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(uds)) == 0


@pytest.mark.parametrize("strips", [True, False], ids=["strips the path", "keeps the path"])
def test_behind_a_proxy_every_address_has_the_root_path(served: Cli, tmp_path: Path, *, strips: bool) -> None:
    token, uds = add_token(served), tmp_path / "desk.sock"
    headers = {"Authorization": f"Bearer {token}", "Host": HOST}
    with (
        listening(served, uds, "--root-path", "/desk"),
        proxy(uds, "/desk" if strips else "") as address,
        httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=LONGEST) as client,
    ):
        assert client.get(f"/desk{STATUS}").status_code == 200
        assert client.get(f"/desk{API}/openapi.json").json()["servers"] == [{"url": "/desk"}]
        assert client.get("/desk/").headers["Location"] == "/desk/messages/"
        assert client.get(f"/desk{API}/no%2Fsuch").json()["detail"].startswith("no message no/such")


@contextmanager
def proxy(uds: Path, strip: str) -> Iterator[str]:
    """Run a reverse proxy in front of a Unix socket, which strips a prefix from each path."""

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            inner = HTTPConnection(HOST)
            inner.sock = socket.socket(socket.AF_UNIX)
            inner.sock.connect(str(uds))
            inner.request("GET", self.path.removeprefix(strip), headers=dict(self.headers))
            answer = inner.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            inner.close()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(LONGEST)


def test_a_proxy_names_the_user_in_a_header(served: Cli, tmp_path: Path) -> None:
    add_token(served, "vera", "viewer")
    uds = tmp_path / "desk.sock"
    behind = served.having({"RETRYCLI_WEB__USER_HEADER": "X-Remote-User", "RETRYCLI_WEB__UDS": str(uds)})
    with listening(behind, uds), over(uds) as client:
        assert client.get(STATUS, headers={"X-Remote-User": "vera"}).status_code == 200
        assert client.get(STATUS, headers={"X-Remote-User": "eve"}).status_code == 401
        assert client.get(STATUS, headers=[("X-Remote-User", "vera"), ("X-Remote-User", "eve")]).status_code == 401
        own = {"X-Remote-User": "vera", "Sec-Fetch-Site": "same-origin"}
        assert client.post(f"{API}/scheduler/resume", headers=own).status_code == 403


def test_a_user_header_needs_a_socket_whose_group_was_chosen(served: Cli, tmp_path: Path) -> None:
    """Whoever may open the socket may name any user. A service user's primary group may be shared, such as `users`."""
    need_root()
    add_token(served)
    folder = tmp_path / "run"
    folder.mkdir(0o755)
    uds = folder / "console.sock"
    shared = served.under("setpriv", f"--regid={SHARED}", "--clear-groups").having({"RETRYCLI_WEB__UDS": str(uds)})
    trusting = shared.having({"RETRYCLI_WEB__USER_HEADER": "X-Remote-User"})
    refused = trusting("serve")
    assert (refused.returncode, uds.exists()) == (78, False)
    problem = f"web.user_header: the group {SHARED} could open {uds} and act as any user"
    remedy = f"`chgrp GROUP {folder} && chmod g+s {folder}`"
    assert problem in refused.stderr
    assert remedy in refused.stderr
    said = trusting("doctor").stdout
    assert (problem in said, remedy in said) == (True, True)
    with listening(shared, uds):
        pass
    os.chown(folder, 0, SHARED)
    folder.chmod(0o2750)
    with listening(trusting, uds):
        assert (uds.stat().st_gid, stat.S_IMODE(uds.stat().st_mode)) == (SHARED, 0o660)
    assert problem not in trusting("doctor").stdout


def test_a_socket_in_a_folder_of_another_user_is_refused(served: Cli, tmp_path: Path) -> None:
    """That user could put a socket of their own in its place, and see what users send."""
    need_root()
    add_token(served)
    folder = tmp_path / "run"
    folder.mkdir(0o755)
    os.chown(folder, THEIRS, THEIRS)
    done = served("serve", "--uds", folder / "console.sock")
    assert done.returncode == 78
    assert f"web.uds: {folder}/console.sock is not used, because {folder} belongs to {THEIRS}" in done.stderr
    found = served.having({"RETRYCLI_WEB__UDS": str(folder / "console.sock")})("doctor").stdout
    assert f"{folder} belongs to {THEIRS}, which exposes {folder}/console.sock" in found


def test_tokens_are_printed_once_and_kept_as_digests(served: Cli, tmp_path: Path) -> None:
    token = add_token(served)
    file = tmp_path / "tokens.json"
    assert token.startswith("rcli_")
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.with_name("tokens.json.key").stat().st_mode) == 0o600
    assert served("serve", "token", "list").stdout.split("\t")[:2] == ["anna", "operator"]
    assert [user["name"] for user in served.json("serve", "token", "list")["tokens"]] == ["anna"]
    gone = served("serve", "token", "remove", "max")
    assert (gone.returncode, "has no token for max" in gone.stderr) == (2, True)
    assert served("serve", "token", "add", "e\nve", "--role", "viewer").returncode == 2


def test_nothing_is_written_into_a_folder_that_others_may_change(served: Cli, tmp_path: Path) -> None:
    """A new file gets the owner and the mode of the lock file, which another user may have put there."""
    need_root()
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    lock = folder / "tokens.json.lock"
    lock.touch()
    lock.chmod(0o666)
    os.chown(lock, THEIRS, THEIRS)
    done = served.having({"RETRYCLI_WEB__TOKENS_FILE": str(folder / "tokens.json")})(
        "serve", "token", "add", "anna", "--role", "operator"
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert f"web.tokens_file: {folder} is writable by every user" in done.stderr
    assert [*folder.iterdir()] == [lock]


def test_the_demo_serves_the_console_over_the_example(cli: Cli) -> None:
    process = cli.start("demo", "--serve", "--port", "0")
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(5)]
    token = said[-1].rpartition(" ")[2].strip()
    address = said[-2].split()[-1].removesuffix("/messages/")
    try:
        answer = httpx.get(
            address + STATUS, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=LONGEST
        )
    finally:
        process.terminate()
        done = end(process)
    assert (answer.json()["running"], answer.json()["next_run"] is None) == (True, False)
    assert (done.returncode, done.stderr) == (143, "")
    assert cli("demo", "--port", "1").returncode == 2


def test_a_database_that_is_away_is_said_at_the_start(served: Cli, tmp_path: Path) -> None:
    add_token(served)
    away = served.having({"RETRYCLI_DATABASE__URL": f"sqlite:///{tmp_path}/away.db"})
    process = away.start("serve", "--port", "0")
    address = address_of(process)
    assert httpx.get(f"{address}/livez", trust_env=False, timeout=LONGEST).status_code == 200
    assert httpx.get(f"{address}/readyz", trust_env=False, timeout=LONGEST).status_code == 503
    process.terminate()
    assert "no database at" in end(process).stderr
