"""The floors that modules stand on, held by a machine: who may import whom, and what each may never know.

Imports inside functions count, for they are run too. Those under ``if TYPE_CHECKING`` never run, but whoever names
another's types knows of it: they count for every rule but the one against circles.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import retrycli

ROOT = Path(retrycli.__file__).parent

# -- the rules ------------------------------------------------------------------------------------------------

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors message outcome backoff policy breaker events duration escape news fingerprint ticks notices "
        "notice_text outage figures grouping cronline units finding acts draft turns attempt doubt identity suggested "
        "filter listing pass_record",
        "settings section gateways address config config_text atomic trust extras descriptors log_file",
        "schema migrations store gateway lock sandbox example notify ping metrics crontab filesystem reach editor "
        "starter",
        "ports engine delivery supply liaison destination intake pace record recovery by_hand",
        "logs console report",
        "app aftermath standing expiry desk upkeep explain preview tell measure reporting casework arrival editing "
        "move demo trial scheduler doctor presets cli __init__ __main__",
    )
)
"""Modules, and packages with all that is in them. ``__init__`` is ``retrycli`` itself, the public face."""

OPERATIONS = FLOORS[-1] - {"cli", "__init__", "__main__"}
"""What an operator can ask for: commands call them, and so may a web page or an application."""

FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}

STRANGERS = {2: "adapters", 4: "views"}
"""On these floors nobody knows a neighbour; on the others they may, if not in a circle."""

ACQUAINTED = {
    ("store", "schema"),
    ("migrations", "schema"),
    ("example", "schema"),
    ("example", "store"),
}
"""Neighbours on a floor of strangers that may be known all the same."""

DATABASE = {"sqlalchemy", "alembic", "sqlite3", "psycopg"}
NETWORK = {"httpx", "httpx_aiohttp", "aiohttp", "tenacity", "socket", "http"}
SCREEN = {"typer", "rich"}
WORLD = {"asyncio", "getpass", "io", "logging", "os", "pathlib", "shutil", "signal", "subprocess", "sys", "tempfile"}
CHANCE = {"random", "secrets", "time"}


def own(names: Iterable[str]) -> set[str]:
    return {f"retrycli.{each}" for each in names}


@dataclass(frozen=True)
class Rule:
    """Some modules, and names that they never import, nor anything under them."""

    who: Iterable[str]
    never: Iterable[str]
    why: str


RULES = (
    Rule(FLOORS[0], DATABASE | NETWORK | SCREEN | WORLD | CHANCE | {"uuid"}, "floor 0 is pure"),
    Rule(FLOORS[1], DATABASE | NETWORK | SCREEN, "settings know neither database nor network"),
    Rule(["schema"], own(["policy"]), "tables don't know what happens next"),
    Rule(["schema", "migrations", "store", "example"], NETWORK | SCREEN, "the store sends nothing and shows nothing"),
    Rule(["gateway"], DATABASE | SCREEN, "the gateway stores nothing and shows nothing"),
    Rule(["lock", "sandbox"], (DATABASE | NETWORK | SCREEN) - {"socket", "http"}, "it stands on its own"),
    Rule(FLOORS[3], own(FLOORS[2]), "the engine declares ports and knows no adapter"),
    Rule(FLOORS[3], DATABASE | NETWORK | SCREEN, "the engine is given the world"),
    Rule(FLOORS[3], CHANCE | {"logging", "os", "sys"}, "the engine is given clock, randomness and ears"),
    Rule(FLOORS[4], own(FLOORS[2] | FLOORS[3]) | DATABASE | NETWORK, "views get values and give text"),
    Rule(OPERATIONS, SCREEN | own(["cli"]), "an operation is used without a terminal too"),
    Rule(
        ["cli"],
        DATABASE | NETWORK | own(["store", "schema", "migrations", "gateway"]) | own(FLOORS[3]),
        "a command parses, calls one thing, shows",
    ),
)

NO_CLOCK = FLOORS[0] | FLOORS[3]
"""These are given the time."""

BY_NAME = frozenset({"retrycli", "retrycli.cli"})
"""These may import what they name in a string, where no rule sees it."""


# -- how they are held ----------------------------------------------------------------------------------------


def breaches(module: str, source: str) -> list[str]:
    """What is wrong with a module, in words."""
    who = home(module)
    if who not in FLOOR_OF:
        return [f"{module} stands on no floor: add it to FLOORS in {__file__}"]
    tree = ast.parse(source)
    found = []
    for name in sorted(set(imports(tree, module))):
        found += [f"{module} imports {name}: {why}" for why in objections(who, name)]
    if who in NO_CLOCK:
        found += [f"{module} reads the clock by {each}: it is to be given the time" for each in clocks(tree)]
    if who in FLOORS[0]:
        found += [f"{module} calls {each}(): floor 0 is pure" for each in calls(tree, {"open", "print", "input"})]
    if module not in BY_NAME and {*calls(tree, {"__import__"}), *attributes(tree, {"import_module"})}:
        found.append(f"{module} imports by a name in a string, where no rule sees it")
    return found


def objections(who: str, name: str) -> Iterator[str]:
    """Why one may not import a name."""
    for rule in RULES:
        if who in rule.who and any(name == each or name.startswith(f"{each}.") for each in rule.never):
            yield rule.why
    top = name.partition(".")[0]
    if top == "retrycli":
        yield from floor_objections(who, home(name))
    elif who in FLOORS[0] | FLOORS[3] and top not in sys.stdlib_module_names:
        yield "it is written in plain Python"


def floor_objections(who: str, whom: str) -> Iterator[str]:
    if whom not in FLOOR_OF and f"retrycli.{whom}" in MODULES:
        yield "it stands on no floor"
        return
    mine, theirs = FLOOR_OF[who], FLOOR_OF.get(whom, FLOOR_OF["__init__"])
    if theirs > mine:
        yield f"it is on floor {theirs}, above floor {mine}"
    if theirs == mine and mine in STRANGERS and who != whom and (who, whom) not in ACQUAINTED:
        yield f"{STRANGERS[mine]} don't know each other"


def home(name: str) -> str:
    """The name under which FLOORS knows a module, or something in it."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Everything that is imported anywhere in a module, by its full name."""
    package = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            before = package[: len(package) - node.level] if node.level else []
            start = ".".join([*before, *([node.module] if node.module else [])])
            yield from (f"{start}.{each.name}" for each in node.names)


def clocks(tree: ast.AST) -> Iterator[str]:
    """Where `datetime` or `date`, under whatever name, is asked for the time."""
    froms = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.module == "datetime"]
    known = {"datetime", "date"} | {each.asname for node in froms for each in node.names if each.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
            receiver = ast.unparse(node.value)
            if receiver.rpartition(".")[2] in known:
                yield f"{receiver}.{node.attr}"


def calls(tree: ast.AST, names: set[str]) -> list[str]:
    called = [each.func for each in ast.walk(tree) if isinstance(each, ast.Call)]
    return [each.id for each in called if isinstance(each, ast.Name) and each.id in names]


def attributes(tree: ast.AST, names: set[str]) -> list[str]:
    """Names that are taken out of a module, whether after a dot or by ``from … import``."""
    dotted = [each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)]
    taken = [each.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for each in node.names]
    return [each for each in [*dotted, *taken] if each in names]


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle when they run; none where there is no circle."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        tree = Runtime().visit(ast.parse(source))
        graph[module] = {found for name in imports(tree, module) if (found := longest(name, sources)) != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found_circle: list[str] = error.args[1]
        return found_circle
    return []


def longest(name: str, modules: Iterable[str]) -> str:
    """The module that a full name is in."""
    return max((each for each in modules if f"{name}.".startswith(f"{each}.")), key=len, default="")


class Runtime(ast.NodeTransformer):
    """Leaves out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            return None
        return self.generic_visit(node)


def named(path: Path) -> str:
    parts = ["retrycli", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


# -- the tests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_its_floor(module: str) -> None:
    assert breaches(module, MODULES[module]) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circle(MODULES) == []


def test_every_name_in_the_rules_is_on_a_floor_once() -> None:
    """A misspelt name would hold nobody to anything."""
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)
    assert {each for rule in RULES for each in rule.who} <= FLOOR_OF.keys()
    assert {each for pair in ACQUAINTED for each in pair} <= FLOOR_OF.keys()


# That each rule bites: made-up modules that break it, and what is said of them.

BROKEN = [
    # floors
    ("retrycli.message", "from retrycli.settings import Settings", "on floor 1, above floor 0"),
    ("retrycli.config", "from retrycli.store.database import Database", "on floor 2, above floor 1"),
    ("retrycli.store.claims", "from retrycli import engine", "on floor 3, above floor 2"),
    ("retrycli.engine", "from retrycli.logs import logger", "on floor 4, above floor 3"),
    ("retrycli.logs", "import retrycli.app", "on floor 5, above floor 4"),
    ("retrycli.events", "import retrycli", "on floor 5, above floor 0"),
    ("retrycli.events", "from retrycli import run_once", "on floor 5, above floor 0"),
    ("retrycli.policy", "from .settings import Settings", "on floor 1, above floor 0"),
    ("retrycli.policy", "from . import config", "on floor 1, above floor 0"),
    ("retrycli.policy", "def f():\n    from retrycli import config", "on floor 1, above floor 0"),
    ("retrycli.policy", "if TYPE_CHECKING:\n    from retrycli.ports import World", "on floor 3, above floor 0"),
    # strangers
    ("retrycli.store.claims", "from retrycli.lock import Holder", "adapters don't know each other"),
    ("retrycli.gateway.http", "from retrycli.schema import queue", "adapters don't know each other"),
    ("retrycli.schema", "from retrycli.store.database import Database", "adapters don't know each other"),
    ("retrycli.store.database", "from retrycli.migrations import env", "adapters don't know each other"),
    ("retrycli.example", "from retrycli.sandbox import Sandbox", "adapters don't know each other"),
    ("retrycli.console", "from retrycli.logs import logger", "views don't know each other"),
    # floor 0
    *[
        ("retrycli.message", f"import {each}", "floor 0 is pure")
        for each in ("sqlalchemy", "httpx", "aiohttp", "typer", "rich", "tenacity", "logging", "random", "time", "uuid")
    ],
    ("retrycli.backoff", "from time import time", "floor 0 is pure"),
    ("retrycli.outcome", "import sqlalchemy.orm", "floor 0 is pure"),
    ("retrycli.breaker", "from pathlib import Path", "floor 0 is pure"),
    ("retrycli.policy", "import pydantic", "it is written in plain Python"),
    ("retrycli.policy", "datetime.now(UTC)", "reads the clock by datetime.now"),
    ("retrycli.policy", "import datetime\ndatetime.datetime.utcnow()", "reads the clock by datetime.datetime.utcnow"),
    ("retrycli.policy", "from datetime import date as d\nd.today()", "reads the clock by d.today"),
    ("retrycli.policy", "def f(now=datetime.now): ...", "reads the clock by datetime.now"),
    ("retrycli.news", "print('tea')", "calls print()"),
    ("retrycli.duration", "open('tea').read()", "calls open()"),
    # settings
    ("retrycli.config", "import sqlalchemy", "neither database nor network"),
    ("retrycli.config_text", "def f():\n    import httpx", "neither database nor network"),
    # adapters
    ("retrycli.schema", "from retrycli.policy import Transition", "tables don't know what happens next"),
    ("retrycli.store.views", "import httpx", "sends nothing"),
    ("retrycli.store.views", "from aiohttp import web", "sends nothing"),
    ("retrycli.gateway.preset", "from sqlalchemy import select", "stores nothing"),
    ("retrycli.lock", "import sqlalchemy", "stands on its own"),
    ("retrycli.sandbox", "import httpx", "stands on its own"),
    # the engine
    *[
        ("retrycli.engine", f"import {each}", "the engine is given the world")
        for each in ("sqlalchemy", "httpx", "aiohttp", "typer", "rich")
    ],
    ("retrycli.engine", "from retrycli.store.claims import Claims", "knows no adapter"),
    ("retrycli.by_hand", "from retrycli import gateway", "knows no adapter"),
    ("retrycli.intake", "if TYPE_CHECKING:\n    from retrycli.lock import PassLock", "knows no adapter"),
    ("retrycli.engine", "import random", "given clock, randomness and ears"),
    ("retrycli.engine", "import logging", "given clock, randomness and ears"),
    ("retrycli.engine", "import attrs", "it is written in plain Python"),
    ("retrycli.ports", "now = datetime.now(UTC)", "reads the clock by datetime.now"),
    # views
    ("retrycli.console", "from retrycli.store.views import ListedMessage", "get values and give text"),
    ("retrycli.logs", "from retrycli.engine import run_pass", "get values and give text"),
    ("retrycli.console", "import sqlalchemy", "get values and give text"),
    ("retrycli.report.html", "import httpx", "get values and give text"),
    # the edge
    ("retrycli.app", "import typer", "without a terminal too"),
    ("retrycli.desk", "def f():\n    from rich.table import Table", "without a terminal too"),
    ("retrycli.doctor.api", "if TYPE_CHECKING:\n    from retrycli.cli.shared import Json", "without a terminal too"),
    ("retrycli.presets", "import rich", "without a terminal too"),
    ("retrycli.cli.look", "from retrycli.store.views import Views", "parses, calls one thing, shows"),
    ("retrycli.cli.presets", "def f():\n    from retrycli.gateway.preset import load_preset", "calls one thing"),
    ("retrycli.cli.bulk", "if TYPE_CHECKING:\n    from retrycli.delivery import Delivery", "calls one thing, shows"),
    ("retrycli.cli.look", "from sqlalchemy import select", "parses, calls one thing, shows"),
    ("retrycli.cli", "import sqlalchemy", "parses, calls one thing, shows"),
    # anywhere
    ("retrycli.engine", "__import__('httpx')", "imports by a name in a string"),
    ("retrycli.store", "import importlib\nimportlib.import_module('httpx')", "imports by a name in a string"),
    ("retrycli.store", "from importlib import import_module", "imports by a name in a string"),
    ("retrycli.utils", "", "stands on no floor: add it to FLOORS"),
    ("retrycli.helpers.text", "", "stands on no floor: add it to FLOORS"),
]


@pytest.mark.parametrize(("module", "source", "said"), BROKEN)
def test_each_rule_bites(module: str, source: str, said: str) -> None:
    assert [each for each in breaches(module, source) if said in each]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.why)
def test_each_rule_is_among_the_broken_ones(rule: Rule) -> None:
    assert any(rule.why in each for module, source, _ in BROKEN for each in breaches(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("retrycli.policy", "from retrycli.message import Message"),
        ("retrycli.events", "from datetime import UTC, datetime, timedelta\nworld.now()\nself._world.now()"),
        ("retrycli.settings", "from retrycli.backoff import Backoff"),
        ("retrycli.store.claims", "from sqlalchemy import select\nfrom retrycli.store.database import Database"),
        ("retrycli.store.claims", "from retrycli.schema import queue"),
        ("retrycli.gateway.http", "import httpx\nfrom .preset import load_preset"),
        ("retrycli.engine", "import asyncio\nfrom retrycli.ports import World"),
        ("retrycli.console", "from rich.table import Table\nfrom retrycli.escape import printable"),
        ("retrycli.cli.look", "import typer\nfrom retrycli.console import say\nfrom retrycli import __version__"),
        ("retrycli.app", "import random, time\nfrom retrycli.store.claims import Claims\ndatetime.now(UTC)"),
        ("retrycli", "from importlib import import_module"),
    ],
)
def test_what_is_allowed_is_not_complained_of(module: str, source: str) -> None:
    assert breaches(module, source) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"retrycli.a": "from retrycli.b import x", "retrycli.b": "from retrycli import a"}, True),
        ({"retrycli.a": "import retrycli.b", "retrycli.b": "def f():\n    import retrycli.a"}, True),
        ({"retrycli.a": "import retrycli.b", "retrycli.b": "if TYPE_CHECKING:\n    import retrycli.a"}, False),
        ({"retrycli.a": "import retrycli.b, retrycli.c", "retrycli.b": "import retrycli.c", "retrycli.c": ""}, False),
    ],
)
def test_a_circle_is_found(sources: dict[str, str], *, found: bool) -> None:
    assert bool(circle(sources)) is found
