"""The console behind a real nginx, with the file in ``cron/``."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from typing import TYPE_CHECKING

import httpx

from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_sqlite
from tests.cron.machine import FILES, tool
from tests.web.conftest import API, HOST
from tests.web.test_serve import add_token, is_listening, listening, over

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Cli

pytestmark = on_sqlite

INSTALLED = "/run/retrycli/console.sock"
CONFIGURATION = """
daemon off;
user {login};
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {zones}
    server {{
        listen unix:{folder}/nginx.sock;
        {listen}
        server_name {host};
        include {folder}/retrycli.conf;
    }}
}}
"""


@contextmanager
def nginx(folder: Path, snippet: str, port: int | None = None) -> Iterator[Path]:
    """Run nginx for a `with` block, and return the socket on which it listens. It may also listen on a TCP port."""
    program = tool("nginx", "nginx-light")
    folder.mkdir()
    (folder / "retrycli.conf").write_text(snippet)
    zones = "\n    ".join(re.findall(r"^# +(limit_\w+_zone .+;)$", snippet, re.MULTILINE))
    assert zones.count("limit_") == 2
    listen = "" if port is None else f"listen 127.0.0.1:{port};"
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, host=HOST, login=getuser(), zones=zones, listen=listen)
    )
    command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: is_listening(folder / "nginx.sock"), process)
        yield folder / "nginx.sock"
    finally:
        process.terminate()
        process.communicate(timeout=LONGEST)


def test_the_shipped_file_serves_the_console(at_work: Cli, tmp_path: Path) -> None:
    served = at_work.having(
        {
            "RETRYCLI_WEB__TOKENS_FILE": str(tmp_path / "tokens.json"),
            "RETRYCLI_WEB__ALLOWED_HOSTS": HOST,
            "RETRYCLI_WEB__ROOT_PATH": "/desk",
        }
    )
    token, uds = add_token(served), tmp_path / "console.sock"
    shipped = (FILES / "nginx.conf").read_text()
    assert f"http://unix:{INSTALLED};" in shipped
    snippet = shipped.replace(INSTALLED, str(uds))
    with listening(served, uds), nginx(tmp_path / "nginx", snippet) as front, over(front) as client:
        headers = {"Authorization": f"Bearer {token}", "X-Remote-User": "anna"}
        assert client.get(f"/desk{API}/scheduler/status", headers=headers).status_code == 200
        assert client.get(f"/desk{API}/scheduler/status", headers={"X-Remote-User": "anna"}).status_code == 401
        assert client.get(f"/desk{API}/openapi.json", headers=headers).json()["servers"] == [{"url": "/desk"}]
        assert client.get("/desk/").headers["Location"] == "/desk/messages/"
        other = httpx.Headers({**headers, "Host": "evil.example"})
        assert client.get(f"/desk{API}/scheduler/status", headers=other).status_code == 421
