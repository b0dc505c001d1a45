"""Files that retrycli creates are private under any umask, except files that other users must read."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from tests.cli.command import OPEN_TO_ALL

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

FOR_OTHERS = {
    "retrycli.prom": 0o644,  # node_exporter runs as another user
    "report.html": 0o644,  # a web server runs as another user
}
"""Files without secrets, which other users must be able to read."""

EDITOR = """\
#!/bin/sh
stat -c '%a %n' "$1" "$(dirname "$1")" > seen
exit 1
"""


def test_files_that_commands_create_are_private(cli: Cli, application: Application) -> None:
    application.path.chmod(0o600)  # SQLite gives its journal files the same mode
    application.execute("PRAGMA journal_mode = WAL")
    application.add(1)
    editor = cli.cwd / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o700)
    before = {path.name for path in cli.cwd.iterdir()}
    (folder := cli.cwd / "temporary").mkdir()
    at_work = cli.under(*OPEN_TO_ALL).having({"TMPDIR": str(folder), "EDITOR": str(editor)})
    assert at_work("init", "--database-url", application.url, "--base-url", "http://127.0.0.1:9").returncode == 0
    paths = {"RETRYCLI_METRICS__PATH": "retrycli.prom", "RETRYCLI_REPORT__PATH": "report.html"}
    paths["RETRYCLI_LOGGING__FILE"] = "retrycli.log"
    assert at_work("run-once", env=paths).returncode == 0
    assert at_work("edit", "1", "--yes").returncode == 4
    seen = [line.split() for line in (cli.cwd / "seen").read_text().splitlines()]
    assert [mode for mode, _ in seen] == ["600", "700"]
    assert all(name.startswith(str(folder)) for _, name in seen)
    assert list(folder.iterdir()) == []
    made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in cli.cwd.iterdir() if path.is_file()}
    own = {name: mode for name, mode in made.items() if name not in before | {"seen"}}
    assert own.keys() > FOR_OTHERS.keys() | {"retrycli.toml"}
    assert own == dict.fromkeys(own, 0o600) | FOR_OTHERS
    assert {"agent.db.retrycli.lock", "retrycli.log"} <= own.keys()
