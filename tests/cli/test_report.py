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
from tests.cli.api import REJECTS, Scripted
from tests.cli.application import Application
from tests.cli.command import Cli

if TYPE_CHECKING:
    from tests.cli.command import Finished

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


def hour_old(path: Path) -> None:
    then = path.stat().st_mtime - 3601
    os.utime(path, (then, then))


# -- the command -----------------------------------------------------------------------------------------------------


def test_a_report_is_readable_by_others(at_work: Cli, tmp_path: Path) -> None:
    """A web server runs as another user, so the umask must not apply."""
    done = at_work.under("sh", "-c", 'umask 077; exec "$0" "$@"')("report", "--html", "page.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = tmp_path / "page.html"
    assert page.read_text(encoding="utf-8").startswith(DOCTYPE)
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    assert heading(page.read_text(encoding="utf-8")).startswith("No pass has run yet")


def test_without_a_file_argument_it_writes_the_configured_one(at_work: Cli, tmp_path: Path) -> None:
    assert at_work("report", env={"RETRYCLI_REPORT__PATH": "set.html"}).returncode == 0
    assert (tmp_path / "set.html").exists()
    none = at_work("report")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no file given; name one, or - for stdout, or set report.path" in " ".join(none.stderr.split())


def test_replaces_a_symbolic_link_and_does_not_follow_it(at_work: Cli, tmp_path: Path) -> None:
    """Another user may have created the link, so that a pass as root would overwrite its target."""
    (tmp_path / "other").write_text("old")
    (tmp_path / "page.html").symlink_to("other")
    assert at_work("report", "--html", "page.html").returncode == 0
    assert not (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith(DOCTYPE)
    assert (tmp_path / "other").read_text() == "old"


def test_a_descriptor_of_a_regular_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """If a shell redirects stdout to a file, ``/dev/stdout`` is such a descriptor. Root must not replace the link."""
    (tmp_path / "page.html").write_text("before\n")
    with (tmp_path / "page.html").open("a") as page:
        write(Path(f"/dev/fd/{page.fileno()}"), DOCTYPE)
    assert (tmp_path / "page.html").read_text() == f"before\n{DOCTYPE}"


def test_writes_to_a_device_and_does_not_replace_it(at_work: Cli) -> None:
    done = at_work.real()("report", "--html", "/dev/stdout")  # stdout is a pipe
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(DOCTYPE)


def test_a_pipe_gets_the_page_if_somebody_reads_it_and_is_not_followed_elsewhere(tmp_path: Path) -> None:
    """Another user may have made the pipe, or put a link in its place."""
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
    finally:
        os.close(reader)


def test_a_pass_replaces_a_pipe(tmp_path: Path) -> None:
    """Another user may read from it for ever, and slowly."""
    pipe = tmp_path / "page.html"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, DOCTYPE, may_wait=False)
    finally:
        os.close(reader)
    assert pipe.is_file()
    assert pipe.read_text() == DOCTYPE


@pytest.mark.parametrize("path", ["nowhere/page.html", ".", "agent.db/page.html", "x" * 300, "/proc/page.html"])
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


def test_without_jinja2_the_error_suggests_how_to_install_it(at_work: Cli, tmp_path: Path) -> None:
    done = replace(at_work, program=WITHOUT_JINJA2)("report", "--html", "page.html")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"retrycli: a report needs Jinja2; run `{sys.executable} -m pip install 'retrycli[report]'`\n"
    assert not (tmp_path / "page.html").exists()


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


# -- passes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_page(at_work: Cli, tmp_path: Path) -> Cli:
    """Provide the command, configured to renew a page."""
    return at_work.having({"RETRYCLI_REPORT__PATH": str(tmp_path / "page.html")})


def test_a_pass_renews_the_page_if_it_acted_or_the_page_is_an_hour_old(
    with_page: Cli, application: Application, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"

    def renewed() -> bool:
        before = page.stat().st_ino if page.exists() else None
        done = with_page("run-once")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return page.stat().st_ino != before

    assert renewed(), "there was none"
    assert not renewed(), "nothing was done"
    hour_old(page)
    assert renewed(), "its time is to say that passes come"
    application.fill_due()
    assert renewed(), "something was done"
    assert heading(page.read_text(encoding="utf-8")).startswith("All well: 3 messages delivered on retry")
    assert stat.S_IMODE(page.stat().st_mode) == 0o644


def test_a_skipped_pass_leaves_the_page_to_the_pass_that_holds_the_lock(
    with_page: Cli, application: Application, tmp_path: Path
) -> None:
    with application.held():
        assert with_page("run-once", "--wait-lock", "0").returncode == 75
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("program", "path", "said"),
    [
        (
            None,
            "nowhere/page.html",
            "can't write the report nowhere/page.html: No such file or directory; choose a file",
        ),
        (WITHOUT_JINJA2, "page.html", "a report needs Jinja2; run `"),
    ],
)
def test_a_page_that_cannot_be_renewed_fails_no_pass(
    at_work: Cli, application: Application, program: tuple[str, ...] | None, path: str, said: str
) -> None:
    """The report matters less than deliveries, so a pass only warns, and warns once because cron mails each warning."""
    application.fill_due()
    done: Finished = replace(at_work, program=program or at_work.program)(
        "run-once", env={"RETRYCLI_REPORT__PATH": path}
    )
    assert (done.returncode, done.stdout) == (0, "")
    [line] = done.stderr.splitlines()
    assert f"WARNING The report is not being updated: {said}" in line
    assert application.last_pass()["sent"] == 3
    assert at_work("run-once", env={"RETRYCLI_REPORT__PATH": "nowhere/page.html"}).stderr == ""
    fixed = at_work("run-once", env={"RETRYCLI_REPORT__PATH": "page.html"})
    assert fixed.stderr.endswith(" WARNING The report is being updated again\n")


def test_a_pass_that_stops_early_renews_the_page_too(cli: Cli, application: Application, tmp_path: Path) -> None:
    """Operators consult the page during an outage, so it must be current."""
    application.add_due(6)
    at_work = cli.having({**application.variables("http://127.0.0.1:9"), "RETRYCLI_REPORT__PATH": "page.html"})
    assert at_work("run-once").returncode == 69
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.match(r"The ticketing API has been down since .*, and 6 messages are waiting\.", heading(page))


def test_a_pass_that_gets_the_same_error_each_time_says_so_on_the_page(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add_due(13)
    with Scripted((404, {})) as api:
        at_work = cli.having({**application.variables(api.url), "RETRYCLI_REPORT__PATH": "page.html"})
        assert at_work("run-once").returncode == 69
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert heading(page).startswith("The ticketing API returns the same error for every request")


def test_the_page_shows_an_escalated_message_with_its_commands(cli: Cli, application: Application) -> None:
    application.add_due(2)
    with Scripted(REJECTS) as api:
        at_work = cli.having(application.variables(api.url))
        at_work("run-once")
    page = at_work("report", "--html", "-").stdout
    assert heading(page) == "2 messages need an operator; everything else is fine."
    assert "HTTP 422: no such recipient" in page
    assert "<code>retrycli show 101</code>" in page
    assert re.search(r"<code>retrycli requeue --fingerprint [0-9a-f]{12}</code>", page)
