"""Compare README and manual with the program: links and examples work, and no setting, command or preset is missing."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import retrycli
from retrycli.cli import HOMES
from retrycli.config import template
from retrycli.config.settings import Settings
from retrycli.domain.listing import FILTER_FIELDS
from retrycli.domain.table_mapping import ROLE_MEANINGS, ROLES, STATUS_MEANINGS
from tests.cli.command import all_commands

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MANUAL = Path(retrycli.__file__).parent / "manual"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(MANUAL.glob("*.md"))}
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *MANUAL.glob("*.md")]
ALL = "\n".join([README.read_text(encoding="utf-8"), *PAGES.values()])

ROW_OF_A_SETTING = re.compile(r"(?:^\| `\w+\.\w+` \|.*\n)+", re.MULTILINE)
SCREEN = 78
"""Columns for a code block on an 80-column terminal: rich leaves one blank on either side."""


def blocks(text: str, *languages: str) -> list[str]:
    return [code for name, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if name in languages]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def limits(path: Path, *, lines: int, words: int | None = None) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= lines
    assert words is None or len(text.split()) <= words


def test_the_readme_is_short() -> None:
    limits(README, lines=200, words=1800)


def test_the_contributors_page_is_short() -> None:
    limits(ROOT / "CONTRIBUTING.md", lines=200)


def test_files_and_names_in_the_contributors_page_exist() -> None:
    """Names with a placeholder, such as ``NAME`` or ``rNNNN``, are skipped: they stand for files to write."""
    sources = [*(ROOT / "retrycli").rglob("*"), *(ROOT / "tests").rglob("*"), *ROOT.iterdir()]
    files = "\n".join(f"/{path.relative_to(ROOT)}/" for path in sources)
    texts = [path.read_text() for path in sources if path.suffix == ".py"]
    code = "\n".join(texts)
    prose = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", prose)
    paths = [text for text in quoted if re.fullmatch(r"[\w./-]*(/|\.(py|toml|md))", text) and "N" not in text]
    names = [text.removesuffix("(…)").rpartition(".")[2] for text in quoted if re.fullmatch(r"[\w.]+(\(…\))?", text)]
    members = re.findall(r"`([A-Z]+[a-z]\w*)\.(\w+)", prose)
    classes = [re.findall(rf"^class {name}\b.*(?:\n(?:    .*)?)*", code, flags=re.MULTILINE) for name, _ in members]
    modules = [name for name in re.findall(r"python\s-m\s([\w.]+)", prose) if name.startswith(("retrycli", "tests"))]
    assert len(paths) > 50
    assert len(names) > 50
    assert [path for path in paths if f"/{path.strip('/')}/" not in files] == []
    assert [name for name in names if name not in paths and not re.search(rf"\b{name}\b", code)] == []
    assert [
        pair for pair, found in zip(members, classes, strict=True) if not re.search(rf"\b{pair[1]}\b", "".join(found))
    ] == []
    made = {name: f"/{name.replace('.', '/')}" for name in modules}
    assert [name for name, path in made.items() if not {f"{path}.py/", f"{path}/__main__.py/"} & {*files.split()}] == []


@pytest.mark.parametrize("topic", PAGES)
def test_a_page_is_short_and_starts_with_a_title_and_a_sentence(topic: str) -> None:
    limits(MANUAL / f"{topic}.md", lines=300)
    title, blank, sentence, *_ = PAGES[topic].splitlines()
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"[A-Z`]|retrycli", sentence)


def rows_of(section: str) -> str:
    """Return the rows of a section's settings for the manual."""
    model, rows = getattr(Settings(), section), ""
    for key, field in type(model).model_fields.items():
        default = getattr(model, key)
        text = str(default) if isinstance(default, str) else template.toml_value(default)
        shown = "" if default in (None, (), "", {}) else f"`{text}` "
        rows += f"| `{section}.{key}` | {shown}| {field.description} |\n" if key != "types" else ""
    return rows


def test_the_manual_has_each_setting_with_its_default_and_description(pytestconfig: pytest.Config) -> None:
    """With the option ``--record``, write the rows."""

    def anew(found: re.Match[str]) -> str:
        return "".join(map(rows_of, dict.fromkeys(re.findall(r"^\| `(\w+)\.", found[0], re.MULTILINE))))

    text = ROW_OF_A_SETTING.sub(anew, PAGES["settings"])
    if pytestconfig.getoption("record"):
        (MANUAL / "settings.md").write_text(text, encoding="utf-8")
        return
    assert PAGES["settings"] == text
    sections = {section for section in Settings.model_fields if f"| `{section}." in text}
    assert sections == {*Settings.model_fields}


def test_every_role_and_status_has_a_row_with_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGES["your-own-table"], re.MULTILINE))
    assert rows == {**ROLE_MEANINGS, **STATUS_MEANINGS}
    assert tuple(ROLE_MEANINGS) == ROLES


@pytest.mark.parametrize("command", HOMES)
def test_every_command_is_in_the_readme_and_the_reference(command: str) -> None:
    for text in (README.read_text(encoding="utf-8"), PAGES["commands"]):
        assert re.search(rf"`(retrycli )?{command}[ `]", text)


@pytest.mark.parametrize("command", all_commands())
def test_every_subcommand_is_in_the_manual(command: str) -> None:
    assert re.search(rf"\b{command}\b", ALL)


def test_the_manual_names_every_filter() -> None:
    names = {f"`--{each.name.replace('_', '-')}`" for each in FILTER_FIELDS.values()}
    [listed] = re.findall(r"Lists all failed messages\. The filters are ([^.]*)\.", PAGES["commands"])
    assert {*re.findall(r"`--[a-z-]+`", listed)} == names
    [acted_on] = re.findall(r"^`(--type [a-z -]*)`$", PAGES["bulk"], re.MULTILINE)
    assert {f"`{name}`" for name in (*acted_on.split(), "--state")} == names
    [asked] = re.findall(r"^The filters are .*?The passes", PAGES["http-api"], re.MULTILINE | re.DOTALL)
    for each in FILTER_FIELDS.values():
        assert f"`{each.name}`" in asked


def test_every_preset_has_a_page() -> None:
    presets = {path.stem for path in MANUAL.parent.glob("gateway/presets/*.toml")} - {"generic"}
    assert {topic for topic in PAGES if topic.startswith("systems-")} == {f"systems-{name}" for name in presets}
    assert all(f'preset = "{name}"' in PAGES[f"systems-{name}"] for name in presets)


def test_the_manual_says_of_each_preset_against_what_it_was_checked(pytestconfig: pytest.Config) -> None:
    """Presets that were checked against the real system come first. With the option ``--record``, write the rows."""
    about = {
        path.stem: tomllib.loads(path.read_text(encoding="utf-8"))["about"]["checked"]
        for path in MANUAL.parent.glob("gateway/presets/*.toml")
    }
    names = sorted(about.keys() - {"generic"}, key=lambda name: (about[name].startswith("a fake"), name))
    rows = "".join(f"| [systems-{name}](systems-{name}.md) | {about[name]} |\n" for name in names)
    text = re.sub(r"(?:^\| \[systems-.*\n)+", lambda _: rows, PAGES["systems"], count=1, flags=re.MULTILINE)
    if pytestconfig.getoption("record"):
        (MANUAL / "systems.md").write_text(text, encoding="utf-8")
        return
    assert PAGES["systems"] == text


def test_python_examples_compile() -> None:
    for source in blocks(ALL, "python"):
        compile(source, "manual", "exec")


@pytest.mark.parametrize("text", blocks(ALL, "toml"))
def test_toml_examples_can_be_parsed(text: str) -> None:
    assert tomllib.loads(text)


def is_of_settings(text: str) -> bool:
    """Return whether a TOML example is not a part of a preset or of another file."""
    return tomllib.loads(text).keys() <= Settings.model_fields.keys()


@pytest.mark.parametrize("text", [text for text in blocks(ALL, "toml") if is_of_settings(text)])
def test_examples_of_settings_are_valid(text: str) -> None:
    found = tomllib.loads(text)
    gateway = found.get("gateway", {})
    # Secrets come from the environment.
    gateway |= {"token": "secret"} if gateway.get("auth") == "bearer" else {}
    gateway |= {"password": "secret"} if "username" in gateway else {}
    assert Settings.model_validate(found)


@pytest.mark.parametrize("topic", PAGES)
def test_commands_to_paste_fit_a_terminal_of_80_columns(topic: str) -> None:
    """A wrapped line would be pasted in two parts. Lines with one long word, such as a URL, are exempt."""
    lines = [line for block in blocks(PAGES[topic], "sh", "toml", "sql", "python") for line in block.splitlines()]
    assert [line for line in lines if len(line) > SCREEN and max(map(len, line.split())) < SCREEN] == []


def test_preset_examples_are_valid(tmp_path: Path) -> None:
    """Only the first example is a complete preset, so the others are not checked."""
    file = tmp_path / "own.toml"
    file.write_text(blocks(PAGES["presets"], "toml")[0], encoding="utf-8")
    checked = subprocess.run([sys.executable, "-m", "retrycli", "presets", "check", file], cwd=tmp_path, check=False)
    assert checked.returncode == 0


def test_the_manual_says_how_to_keep_old_messages_from_being_sent() -> None:
    [text] = [text for text in blocks(PAGES["getting-started"], "toml") if "expires_after_hours" in text]
    assert tomllib.loads(text)["schedule"]["expires_after_hours"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_linked_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target, part in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        file = path.parent / target if target else path
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if part else []
        assert not part or part[1:] in map(anchor, headings), part
    for target in re.findall(r'src="([^":]+)"', text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("topic", PAGES)
def test_a_link_to_a_page_has_the_pages_title(topic: str) -> None:
    """A terminal shows a link as the command `retrycli manual TOPIC`, so its text must be the topic."""
    for text, target in re.findall(r"\[([^\]]+)\]\(([a-z-]+)\.md\)", PAGES[topic]):
        assert text == target
        assert target in PAGES


def test_every_page_is_linked_from_the_readme_or_the_list_of_systems() -> None:
    linked = re.findall(r"\(retrycli/manual/([a-z-]+)\.md\)", README.read_text(encoding="utf-8"))
    assert {*linked, *re.findall(r"\((systems-[a-z-]+)\.md\)", PAGES["systems"])} == set(PAGES)


def test_pages_named_by_errors_exist() -> None:
    named = [
        topic
        for path in MANUAL.parent.rglob("*.py")
        for topic in re.findall(r"retrycli manual ([a-z][a-z-]+)", path.read_text(encoding="utf-8"))
    ]
    assert named
    assert set(named) <= set(PAGES)


def test_the_security_page_names_supported_versions_and_response_times() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "\n## Supported versions\n" in page
    assert re.search(r"an answer within \d+ working days", page)


def test_public_names_in_the_page_on_embedding_exist() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGES["embedding"], re.MULTILINE)
    given = {name for row in rows for name in re.findall(r"\b[A-Z]\w+|\b[a-z_]+(?=\(|`)", row)}
    others = {"id", "ids", "result", "settings", "error", "found", "timedelta"}
    others |= {"messages", "next", "gates", "digest"}  # attributes of results
    assert given - others <= {*retrycli.__all__}


def test_messages_that_the_page_for_operators_quotes_are_those_of_the_program() -> None:
    """An operator searches the page for the words of a mail. Numbers, ``…`` and ``not`` in a quote match any text.

    A quote may join two of the program's texts.
    """
    trees = [ast.parse(path.read_text()) for path in (ROOT / "retrycli").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = "\n".join(text for text in constants if isinstance(text, str))
    rows = PAGES["operating"].partition("## When retrycli pages you")[2].partition("\n## ")[0].splitlines()
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split("|")[1] if "|" in row else "")]
    pieces = [piece.strip() for quote in quotes for piece in re.split(r"…|\b\d+\b|\bnot\b", quote)]
    assert len(quotes) > 20

    def is_said(piece: str) -> bool:
        blanks = [match.start() for match in re.finditer(" ", piece)]
        return piece in texts or any(piece[:at] in texts and piece[at + 1 :] in texts for at in blanks)

    assert [piece for piece in pieces if not is_said(piece)] == []


def test_commands_that_reproduce_figures_select_tests() -> None:
    commands = {found for page in PAGES.values() for found in re.findall(r"`(pytest [^`]*)`", page)}
    assert commands
    for command in commands:
        words = shlex.split(command)[1:]
        paths = [ROOT / word for word in words if word.startswith("tests/")]
        files = [file for path in paths for file in (path.glob("test_*.py") if path.is_dir() else [path])]
        mark = dict(pairwise(words)).get("-m")
        tests = "".join(file.read_text() for file in files)
        assert "\ndef test_" in tests, command
        assert not mark or f"mark.{mark}" in tests, command
