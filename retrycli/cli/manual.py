"""``manual``: the pages that ship with the program, as plain text or rendered for a terminal."""

import os
import re
from difflib import get_close_matches
from importlib import resources
from typing import Annotated

import typer

from retrycli.domain import suggested
from retrycli.views import terminal

FOLDER = resources.files("retrycli") / "manual"
# The pages in this folder, in the order in which to read them.
TOPICS = (
    "getting-started",
    "cron",
    "operating",
    "commands",
    "bulk",
    "statistics",
    "settings",
    "table",
    "your-own-table",
    "outcomes",
    "schedules",
    "notifications",
    "metrics",
    "logging",
    "console",
    "http-api",
    "presets",
    "systems",
    *sorted(page.name.removesuffix(".md") for page in FOLDER.iterdir() if page.name.startswith("systems-")),
    "smtp",
    "your-own-sender",
    "postgresql",
    "capacity",
    "embedding",
    "maintenance",
    "upgrading",
)
PAGE_LINK = re.compile(r"\[[^\]]+\]\(([a-z-]+)\.md(?:#[a-z-]+)?\)")
FILE_LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)[^)]+\)")
LESS = "FRX"  # as git sets it: quit if the page fits, show colours, leave the text on the screen


def _matching(incomplete: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


def manual(
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="A page of the manual.", show_default=False, autocompletion=_matching),
    ] = None,
) -> None:
    """Show a page of the manual, or list its topics."""
    if topic is None:
        terminal.show_table(("Topic", "Contents"), [(name, _first_sentence(name)) for name in TOPICS], texts=1)
        terminal.say(f"Next: {suggested.line('manual', TOPICS[0])}")
    elif topic not in TOPICS:
        raise typer.BadParameter(_unknown(topic), param_hint="TOPIC")
    elif terminal.on_terminal():
        _show(_page(topic))
    else:
        typer.echo(_page(topic), nl=False)


def _page(topic: str) -> str:
    return (FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def _first_sentence(topic: str) -> str:
    _, _, text = _page(topic).partition("\n\n")
    sentence = " ".join(re.split(r"(?<=\.)\s", text, maxsplit=1)[0].split())
    return FILE_LINK.sub(r"\1", sentence).replace("`", "").replace("**", "")


def _unknown(topic: str) -> str:
    close = [name for name in TOPICS if topic and topic in name] or get_close_matches(topic, TOPICS, cutoff=0.7)
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "`retrycli manual` lists the topics"
    return f"{topic!r} is not a topic; {hint}"


def _show(text: str) -> None:
    from retrycli.views.markdown import show_markdown

    show_markdown(_without_paths(text), styled="R" in os.environ.setdefault("LESS", LESS).upper())


def _without_paths(text: str) -> str:
    # Links do not work on a terminal. Replace a link to a page with the page's command or, in a table, its topic.
    lines = (
        PAGE_LINK.sub(r"`\1`" if line.startswith("|") else r"`retrycli manual \1`", line) for line in text.split("\n")
    )
    return FILE_LINK.sub(r"\1", "\n".join(lines))
