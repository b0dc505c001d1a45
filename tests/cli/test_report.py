"""The ``report`` command, and the report page that passes update."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.operations.report import write
from tests.cli.api import Scripted
from tests.cli.application import Application
from tests.cli.command import SCRIPT, Cli

if TYPE_CHECKING:
    pass

DOCTYPE = "<!doctype html>\n"
WITHOUT_JINJA2 = (
    sys.executable,
    "-c",
    "import sys; sys.modules['jinja2'] = None; from retrycli.__main__ import main; main()",
)
HOSTILE = "<script>alert(1)</script>" + "x" * 2000


def heading(page: str) -> str:
    found = re.search("<h1>(.*)</h1>", page)
    assert found is not None
    return found[1]


# -- the command -----------------------------------------------------------------------------------------------------


def test_a_report_is_readable_by_others_and_replaces_a_link(at_work: Cli, tmp_path: Path) -> None:
    """A web server runs as another user, so the umask must not apply.

    Another user may have created the link, so that a pass as root would overwrite its target.
    """
    (tmp_path / "other").write_text("old")
    (tmp_path / "page.html").symlink_to("other")
    done = at_work.under("sh", "-c", 'umask 077; exec "$0" "$@"')("report", "--html", "page.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = tmp_path / "page.html"
    assert page.read_text(encoding="utf-8").startswith(DOCTYPE)
    assert not page.is_symlink()
    assert (tmp_path / "other").read_text() == "old"
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    assert heading(page.read_text(encoding="utf-8")).startswith("No pass has run yet")
    device = at_work.real()("report", "--html", "/dev/stdout")  # a pipe, which is written to and not replaced
    assert (device.returncode, device.stderr, device.stdout.startswith(DOCTYPE)) == (0, "", True)


def test_a_descriptor_of_a_regular_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """If a shell redirects stdout to a file, ``/dev/stdout`` is such a descriptor. Root must not replace the link."""
    (tmp_path / "page.html").write_text("before\n")
    with (tmp_path / "page.html").open("a") as page:
        write(Path(f"/dev/fd/{page.fileno()}"), DOCTYPE)
    assert (tmp_path / "page.html").read_text() == f"before\n{DOCTYPE}"


def test_a_pipe_gets_the_page_if_somebody_reads_it_and_is_not_followed_elsewhere(tmp_path: Path) -> None:
    """Another user may have made the pipe, and read from it slowly, or put a link in its place. A pass replaces it."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ConfigurationError, match="can't write the report"):
            write(path, DOCTYPE)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, DOCTYPE)
        assert os.read(reader, 100).decode() == DOCTYPE
        write(pipe, DOCTYPE, may_wait=False)
    finally:
        os.close(reader)
    assert pipe.is_file()
    assert pipe.read_text() == DOCTYPE


@pytest.mark.parametrize("path", ["nowhere/page.html", ".", "agent.db/page.html", "/proc/page.html"])
def test_an_unwritable_path_is_one_line_with_a_remedy_and_changes_nothing(
    at_work: Cli, tmp_path: Path, path: str
) -> None:
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    done = at_work("report", "--html", path)
    assert (done.returncode, done.stdout) == (78, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"retrycli: can't write the report {path}: ")
    assert "; choose a file in a folder that you can write to (--html, or report.path in the settings)" in line
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_the_page_escapes_texts_and_has_no_customer_texts(cli: Cli, application: Application) -> None:
    """Ticket ids, types and errors are hostile here, and 2,000 characters long."""
    texts: dict[str, Any] = {
        "subject": f"SUBJECT{HOSTILE}",
        "body": f"BODY{HOSTILE}",
        "recipient_email": f"TO{HOSTILE}",
    }
    application.add(1, ticket_id=HOSTILE, retry_count=10, last_error=HOSTILE, **texts)
    application.add(2, message_type=HOSTILE, **texts)
    application.add(3, **texts)
    with Scripted((422, {"messages": [HOSTILE]})) as api:
        at_work = cli.having(application.variables(api.url))
        assert at_work("run-once").returncode == 0
        page = at_work("report", "--html", "-").stdout
    assert "&lt;script&gt;alert" in page
    assert "<script" not in page
    assert not re.search("SUBJECT|BODY|TO<|TO&", page)
    assert len(page) < 60_000
    assert heading(page) == "3 messages need an operator; everything else is fine."
    assert "<code>retrycli show 3</code>" in page


# -- passes ----------------------------------------------------------------------------------------------------------


def test_a_pass_renews_the_page_if_it_acted_or_the_page_is_an_hour_old(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    """Operators consult the page during an outage, so a pass that stops early renews it too."""
    page = tmp_path / "page.html"
    with_page = at_work.having({"RETRYCLI_REPORT__PATH": str(page)})

    def renewed(**more: str) -> bool:
        before = page.stat().st_ino if page.exists() else None
        done = with_page("run-once", env=more)
        assert done.returncode == (69 if more else 0)
        return page.stat().st_ino != before

    with application.held():
        assert with_page("run-once", "--wait-lock", "0").returncode == 75
    assert not page.exists(), "it is left to the pass that holds the lock"
    assert renewed(), "there was none"
    assert not renewed(), "nothing was done"
    then = page.stat().st_mtime - 3601
    os.utime(page, (then, then))
    assert renewed(), "its time is to say that passes come"
    application.fill_due()
    assert renewed(), "something was done"
    assert heading(page.read_text(encoding="utf-8")).startswith("All well: 3 messages delivered on retry")
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    application.add_due(6)
    assert renewed(TICKETING_API_BASE_URL="http://127.0.0.1:9")
    told = r"The ticketing API has been down since .*, and 6 messages are waiting\."
    assert re.match(told, heading(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("program", "path", "said"),
    [
        (SCRIPT, "nowhere/page.html", "can't write the report nowhere/page.html: No such file or directory; choose"),
        (
            WITHOUT_JINJA2,
            "page.html",
            f"a report needs Jinja2; run `{sys.executable} -m pip install 'retrycli[report]'`",
        ),
    ],
)
def test_a_page_that_cannot_be_renewed_fails_no_pass(
    at_work: Cli, application: Application, program: tuple[str, ...], path: str, said: str
) -> None:
    """The report matters less than deliveries, so a pass only warns, and warns once because cron mails each warning."""
    application.fill_due()
    renewing = replace(at_work, program=program).having({"RETRYCLI_REPORT__PATH": path})
    refused, done = renewing("report"), renewing("run-once")
    assert (refused.returncode, refused.stderr.startswith(f"retrycli: {said}")) == (78, True)
    assert (done.returncode, done.stdout) == (0, "")
    [line] = done.stderr.splitlines()
    assert f"WARNING The report is not being updated: {said}" in line
    assert application.last_pass()["sent"] == 3
    assert at_work("run-once", env={"RETRYCLI_REPORT__PATH": "nowhere/page.html"}).stderr == ""
    fixed = at_work("run-once", env={"RETRYCLI_REPORT__PATH": "page.html"})
    assert fixed.stderr.endswith(" WARNING The report is being updated again\n")
