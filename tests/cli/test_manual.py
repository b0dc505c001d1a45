"""The manual as `retrycli manual` shows it: without settings, without a database, in any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

import retrycli
from retrycli.cli.manual import TOPICS
from tests.cli.command import COLUMNS, Cli

PAGES = Path(retrycli.__file__).parent / "manual"
PAGER = {"PAGER": "cat"}


def page(topic: str) -> str:
    return (PAGES / f"{topic}.md").read_text(encoding="utf-8")


@pytest.fixture
def shown(cli: Cli) -> Cli:
    """Provide the command with `cat` as its pager, so that a test sees the whole page."""
    return cli.having(PAGER)


def test_each_page_is_a_topic() -> None:
    assert sorted(TOPICS) == sorted(path.stem for path in PAGES.iterdir())
    assert len(set(TOPICS)) == len(TOPICS)


def test_a_piped_page_is_its_markdown_file(cli: Cli) -> None:
    done = {topic: cli("manual", topic) for topic in TOPICS}
    said = {topic: (it.returncode, it.stdout, it.stderr) for topic, it in done.items()}
    assert [topic for topic in TOPICS if said[topic] != (0, page(topic), "")] == []


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_on_a_terminal_of_80_columns_is_rendered_and_fits(shown: Cli, topic: str) -> None:
    screen = shown.on_terminal("manual", topic)
    assert screen.returncode == 0
    lines = screen.text.splitlines()
    assert max(map(cell_len, lines)) <= COLUMNS
    title = page(topic).splitlines()[0].removeprefix("# ")
    assert title in screen.words
    assert "\n## " not in screen.text
    assert ".md)" not in screen.text, "a link to a page is shown as the command for it"
    assert screen.text.count("…") == page(topic).count("…"), "no cell of a table is cut"


def test_uses_the_pager_from_the_environment(cli: Cli) -> None:
    screen = cli.having({"PAGER": "sed 's/^/> /'"}).on_terminal("manual", "getting-started")
    assert {line[:2] for line in screen.text.splitlines()} == {"> "}


def test_a_page_has_styles_only_if_less_shows_them(shown: Cli) -> None:
    assert "\x1b[1m" in shown.on_terminal("manual", "getting-started").raw
    assert "\x1b" not in shown.having({"LESS": "FX"}).on_terminal("manual", "getting-started").raw


@pytest.mark.parametrize(
    ("topic", "hint"),
    [("", "`retrycli manual` lists the topics"), ("../manual/settings", "'../manual/settings' is not a topic; ")],
)
def test_an_unknown_topic_is_wrong_usage_with_suggestions(cli: Cli, topic: str, hint: str) -> None:
    done = cli("manual", topic)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Error: Invalid value for TOPIC: {topic!r} is not a topic; " in done.stderr
    assert hint in done.stderr


def test_needs_and_reads_no_settings(cli: Cli) -> None:
    (cli.cwd / "retrycli.toml").write_text("[database\n")
    broken = cli.having({"RETRYCLI_DATABSE": "x", "RETRYCLI_CONFIG": "no/such.toml"})
    assert broken("manual", "settings").returncode == 0


@pytest.mark.parametrize(("typed", "offered"), [("sett", ["settings"]), ("zz", [])])
def test_the_shell_completes_topics(cli: Cli, typed: str, offered: list[str]) -> None:
    here = {"_RETRYCLI_COMPLETE": "complete_bash", "COMP_WORDS": f"retrycli manual {typed}", "COMP_CWORD": "2"}
    done = cli.real()(env=here)
    assert (done.stdout.split(), done.stderr) == (offered, "")
