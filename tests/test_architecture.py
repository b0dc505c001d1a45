"""Check the layers: which folder may import which, and which modules are forbidden in each.

Imports inside functions count, because they run too. Those under ``if TYPE_CHECKING`` never run, but they show a
dependency: they count for every rule except the one against circular imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import retrycli

ROOT = Path(retrycli.__file__).parent


MAY_IMPORT: Mapping[str, frozenset[str]] = {
    folder: frozenset([folder, *others.split()])
    for folder, others in {
        "domain": "",
        "system": "domain",
        "config": "domain system",
        "engine": "domain",
        "store": "domain system config engine",
        "gateway": "domain system config engine",
        "notify": "domain system config",
        "views": "domain system config",
        "operations": "domain system config engine store gateway notify views retrycli",
        "web": "domain system config views operations retrycli",
        "cli": "domain system config views operations web retrycli",
    }.items()
}


DATABASE = {"sqlalchemy", "alembic", "sqlite3", "psycopg"}
NETWORK = {"httpx", "httpx_aiohttp", "aiohttp", "tenacity", "socket", "http"}
SCREEN = {"typer", "rich"}
WORLD = {"asyncio", "getpass", "io", "logging", "os", "pathlib", "shutil", "signal", "subprocess", "sys", "tempfile"}
CHANCE = {"random", "secrets", "time"}

NEVER: Mapping[str, tuple[set[str], str]] = {
    "domain": (DATABASE | NETWORK | SCREEN | WORLD | CHANCE | {"uuid"}, "the domain is pure"),
    "system": (DATABASE | (NETWORK - {"socket"}) | SCREEN, "the system is this machine alone"),
    "config": (DATABASE | NETWORK | SCREEN, "settings know neither database nor network"),
    "engine": (DATABASE | NETWORK | SCREEN | CHANCE | {"logging", "os", "sys"}, "the engine is given the world"),
    "store": (NETWORK | SCREEN, "the store sends nothing and shows nothing"),
    "gateway": (DATABASE | SCREEN, "the gateway stores nothing and shows nothing"),
    "notify": (DATABASE | SCREEN, "a notification stores nothing and shows nothing"),
    "views": (DATABASE | NETWORK | (SCREEN - {"rich"}), "views get values and give text"),
    "operations": (SCREEN, "an operation is used without a terminal too"),
    "web": (DATABASE | (NETWORK - {"socket", "http"}) | SCREEN, "a page parses, calls one operation, shows"),
    "cli": (DATABASE | NETWORK, "a command parses, calls one operation, shows"),
}
"""Modules from outside the package that a folder must not import, and the reason."""

GIVEN = frozenset({"domain", "engine"})
"""Folders that get the time as an argument, and use no libraries except the standard library and `PURE`."""

PURE = {"idna"}
"""Libraries that the `GIVEN` folders may use. Their functions depend only on their arguments."""

BY_NAME = frozenset({"retrycli", "retrycli.cli", "retrycli.operations", "retrycli.system.python_call"})
"""Modules that may import dynamically, by a name in a string. The rules can't check such imports. `python_call` imports
functions of the application."""


FACE = "retrycli"
"""The layer of `retrycli` itself and of `retrycli.__main__`, which are in no folder and may import everything."""


def breaches(module: str, source: str) -> list[str]:
    """Describe each rule that a module breaks."""
    who = home(module)
    if who == FACE and module not in {"retrycli", "retrycli.__main__"}:
        return [f"{module} is in no folder: see MAY_IMPORT in {__file__}"]
    tree = ast.parse(source)
    names = sorted({*imports(tree, module)})
    found = [f"{module} imports {name}: {why}" for name in names for why in objections(who, name)]
    if who in GIVEN:
        found += [f"{module} reads the clock by {clock}: it is to be given the time" for clock in clocks(tree)]
    if who == "domain":
        found += [f"{module} calls {call}(): the domain is pure" for call in calls(tree, {"open", "print", "input"})]
    if module not in BY_NAME and {*calls(tree, {"__import__"}), *attributes(tree, {"import_module"})}:
        found.append(f"{module} imports by a name in a string, where no rule sees it")
    return found


def objections(who: str, name: str) -> Iterator[str]:
    """Yield the reasons why a folder may not import a name."""
    if who == FACE:
        return
    top = name.partition(".")[0]
    never, why = NEVER[who]
    if top in never:
        yield why
    if top == "retrycli":
        whom = home(name)
        if whom not in MAY_IMPORT[who]:
            yield f"{who} may not import {whom}"
    elif who in GIVEN and top not in sys.stdlib_module_names | PURE:
        yield "it is written in plain Python"


def home(name: str) -> str:
    """Return the folder of a module, or of a name in it; `FACE` if it is in none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else FACE


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Yield everything that a module imports anywhere, by full name."""
    package = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            before = package[: len(package) - node.level] if node.level else []
            start = ".".join([*before, *([node.module] if node.module else [])])
            yield from (f"{start}.{name.name}" for name in node.names)


def clocks(tree: ast.AST) -> Iterator[str]:
    """Yield the expressions that read the clock through `datetime` or `date`, also under an alias."""
    froms = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.module == "datetime"]
    known = {"datetime", "date"} | {name.asname for node in froms for name in node.names if name.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
            receiver = ast.unparse(node.value)
            if receiver.rpartition(".")[2] in known:
                yield f"{receiver}.{node.attr}"


def calls(tree: ast.AST, names: set[str]) -> list[str]:
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name.id for name in called if isinstance(name, ast.Name) and name.id in names]


def attributes(tree: ast.AST, names: set[str]) -> list[str]:
    """Return each use of these names as an attribute or in ``from … import``."""
    dotted = [each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)]
    taken = [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
    return [name for name in [*dotted, *taken] if name in names]


def circle(sources: Mapping[str, str]) -> list[str]:
    """Return a cycle of modules that import each other at run time, or an empty list."""
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
    """Return the module that contains a full name."""
    return max((module for module in modules if f"{name}.".startswith(f"{module}.")), key=len, default="")


class Runtime(ast.NodeTransformer):
    """A transformer that removes ``if TYPE_CHECKING`` blocks, whose imports never run."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            return None
        return self.generic_visit(node)


def named(path: Path) -> str:
    parts = ["retrycli", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_respects_its_layer(module: str) -> None:
    assert breaches(module, MODULES[module]) == []


def test_the_package_has_at_most_15_entries() -> None:
    entries = {path.name for path in ROOT.iterdir()} - {"__pycache__"}
    assert entries <= {*MAY_IMPORT, "__init__.py", "__main__.py", "py.typed", "manual"}


def test_modules_have_no_circular_imports() -> None:
    assert circle(MODULES) == []


LOADS = {"read_text", "read_bytes", "open", "load_verify_locations", "import_module", "__import__"}
"""Calls that load what may steer a run: settings, secrets, presets, certificates and code."""

CHECKS = {"require_trust", "find_weakness"}

PACKAGE, DATA, MACHINE = "part of the package", "data for one message", "a fact about the machine"
OUTPUT = "written, and at most read again"
UNCHECKED: Mapping[str, str] = {
    "retrycli.__getattr__": PACKAGE,
    "retrycli.cli._load_command": PACKAGE,
    "retrycli.cli.manual._page": PACKAGE,
    "retrycli.gateway.presets.loader.preset_text": PACKAGE,
    "retrycli.operations.load": PACKAGE,
    "retrycli.operations.on_demand": PACKAGE,
    "retrycli.web.console.context.assets": PACKAGE,
    "retrycli.cli.edit._read_body": DATA,
    "retrycli.gateway.attachments._open_file": DATA,
    "retrycli.gateway.attachments._open_part": DATA,
    "retrycli.system.editor.edited": DATA,
    "retrycli.operations.doctor.machine.file_system": MACHINE,
    "retrycli.system.host.processes": MACHINE,
    "retrycli.system.host.read": MACHINE,
    "retrycli.system.host.system_zone": MACHINE,
    "retrycli.system.process._status": MACHINE,
    "retrycli.system.process.prepare_streams": MACHINE,
    "retrycli.system.process.shortage_now": MACHINE,
    "retrycli.operations.demo.copy_example": PACKAGE,
    "retrycli.operations.demo.run_with_table": OUTPUT,
    "retrycli.operations.report.write": OUTPUT,
    "retrycli.system.host.replace_file": OUTPUT,
    "retrycli.system.trust._create_private": OUTPUT,
    "retrycli.system.trust.open_folder": OUTPUT,
    "retrycli.system.trust.open_private": OUTPUT,
    "retrycli.system.trust.write_private": OUTPUT,
    "retrycli.system.python_call._imported": "`_Guard` checks each module",
}
"""Functions that load something without a check, and the reason."""


def unchecked(module: str, source: str) -> Iterator[str]:
    """Yield the functions of a module that load something without a check of who may change it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            called = {
                ast.unparse(each.func).rpartition(".")[2] for each in ast.walk(node) if isinstance(each, ast.Call)
            }
            if called & LOADS and not called & CHECKS:
                yield f"{module}.{node.name}"


def test_everything_that_steers_a_run_is_checked_where_it_is_loaded() -> None:
    found = {name for module, source in MODULES.items() for name in unchecked(module, source)}
    assert found == UNCHECKED.keys()


BROKEN = [
    *[(f"retrycli.{folder}.x", f"import {min(never)}", why) for folder, (never, why) in NEVER.items()],
    ("retrycli.domain.message", "from retrycli.config.settings import Settings", "domain may not import config"),
    ("retrycli.domain.passes", "from retrycli import run_once", "domain may not import retrycli"),
    ("retrycli.domain.retry_policy", "from .. import config", "domain may not import config"),
    ("retrycli.cli.presets", "def f():\n    from retrycli.gateway import router", "cli may not import gateway"),
    ("retrycli.cli.x", "if TYPE_CHECKING:\n    from retrycli.engine import delivery", "cli may not import engine"),
    ("retrycli.engine.runner", "import attrs", "it is written in plain Python"),
    ("retrycli.domain.retry_policy", "from datetime import date as d\nd.today()", "reads the clock by d.today"),
    ("retrycli.engine.ports", "def f(now=datetime.now): ...", "reads the clock by datetime.now"),
    ("retrycli.domain.incidents", "print('tea')", "calls print()"),
    ("retrycli.engine.runner", "__import__('httpx')", "imports by a name in a string"),
    ("retrycli.store", "from importlib import import_module", "imports by a name in a string"),
    ("retrycli.utils", "", "is in no folder"),
]
"""Invented modules that break each rule, with a part of the expected report."""


@pytest.mark.parametrize(("module", "source", "said"), BROKEN)
def test_each_rule_has_a_breach(module: str, source: str, said: str) -> None:
    assert [breach for breach in breaches(module, source) if said in breach]


SNAPSHOT = ("engine.delivery", "engine.destination", "engine.stages")
"""Modules whose objects `Delivery` restores after a failed transaction. `ALSO` lists those of the domain."""
ALSO = ("domain.fair_share",)
MUTATORS = {"add", "append", "clear", "discard", "extend", "insert", "pop", "remove", "setdefault", "sort", "update"}


def changes_in_place(tree: ast.AST) -> list[str]:
    """Return the expressions that change an attribute in place, such as ``self.seen.append``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found.append(ast.unparse(node))
    return [text for text in found if text.startswith("self.")]


@pytest.mark.parametrize("module", [*SNAPSHOT, *ALSO])
def test_what_a_failed_transaction_restores_is_never_changed_in_place(module: str) -> None:
    """`Delivery` restores references, not contents: an item appended to a list would survive the rollback."""
    source = ROOT / f"{module.replace('.', '/')}.py"
    assert changes_in_place(ast.parse(source.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("change", ["self.seen.append(1)", "self.seen[0] = 1"])
def test_a_change_in_place_is_found(change: str) -> None:
    assert len(changes_in_place(ast.parse(change))) == 1


def test_no_page_reads_cookies_by_the_standard_library() -> None:
    """It takes quadratic time for the cookies of a stranger; `sessions.cookie_of` does not."""
    used = {module: attributes(ast.parse(source), {"cookies"}) for module, source in MODULES.items()}
    assert {module for module, found in used.items() if found} == set()


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"retrycli.a": "import retrycli.b", "retrycli.b": "def f():\n    import retrycli.a"}, True),
        ({"retrycli.a": "import retrycli.b", "retrycli.b": "if TYPE_CHECKING:\n    import retrycli.a"}, False),
    ],
)
def test_a_circular_import_is_found(sources: dict[str, str], *, found: bool) -> None:
    assert bool(circle(sources)) is found
