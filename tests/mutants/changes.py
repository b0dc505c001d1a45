"""Draw mutants: changes of one comparison, condition, constant, operator, argument or statement."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from fnmatch import fnmatch
from random import Random
from typing import NamedTuple

from tests.size import sources

SOURCES = sources()
LEFT_OUT = ("store/migrations/*",)
"""Modules whose mutants say nothing: a migration creates what the schema says."""
COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
}  # fmt: skip
ARITHMETIC: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
REMOVED = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Delete)
SIMPLE = (ast.stmt, ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.JoinedStr)
"""Kinds of code that need no parentheses inside an expression."""


class Change(NamedTuple):
    """The changed lines of a file, before and after, with each run of spaces and line ends as one space."""

    path: str
    before: str
    after: str


class Mutant(NamedTuple):
    """One change of one file."""

    change: Change
    text: str
    """The whole changed file."""
    line: int
    lines: range
    """The numbers of the changed lines."""
    statement: range
    """The numbers of the lines of the statement, without its body."""
    is_imported: bool
    """True if the statement runs when its file is imported."""
    body: range
    """The numbers of the lines of the function whose default or decorator is changed; otherwise empty."""
    branch: range
    """The numbers of the lines that depend on the statement's condition, if it is an ``if`` or a ``while``."""
    names: tuple[str, ...]
    """The names that the statement defines."""

    def __str__(self) -> str:
        return f"{self.change.path.removeprefix('retrycli/')}:{self.line}"


class Place(NamedTuple):
    """A node that can be changed, and its statement."""

    path: str
    node: ast.AST
    statement: ast.stmt
    is_imported: bool

    @property
    def weight(self) -> float:
        """Return how often this place is drawn. Texts and named arguments are the most frequent places by far."""
        value = getattr(self.node, "value", None)
        return 0.2 if isinstance(self.node, ast.JoinedStr | ast.Call) or isinstance(value, str) else 1

    def changes(self) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Yield the possible changes: the node that is replaced, and its replacement."""
        match self.node:
            case ast.If(test=test) | ast.IfExp(test=test):
                yield from ((test, ast.Constant(value)) for value in (True, False))
            case ast.While(test=test):
                yield test, ast.Constant(value=False)
            case ast.comprehension(ifs=ifs):
                yield from ((test, ast.Constant(value=True)) for test in ifs)
            case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
                yield self.node, ast.Return(ast.Constant(None))
            case ast.Break() | ast.Continue() as node:
                yield node, ast.Continue() if isinstance(node, ast.Break) else ast.Break()
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield self.node, operand
            case node:
                yield from ((node, _with(node, field, value)) for field, value in _fields(node))
        if not self.is_imported and isinstance(self.node, REMOVED) and not _defines_a_variable(self.node):
            yield self.node, ast.Pass()


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the possible changes of one field of a node."""
    match node:
        case ast.Compare(ops=ops):
            for number, each in enumerate(ops):
                yield from (("ops", [*ops[:number], other(), *ops[number + 1 :]]) for other in COMPARISONS[type(each)])
        case ast.BoolOp(op=op):
            yield "op", ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in ARITHMETIC:
            yield "op", ARITHMETIC[type(operator)]()
        case ast.JoinedStr(values=parts):
            yield from (("values", [other for other in parts if other is not each]) for each in parts)
        case ast.Call(keywords=named):
            yield from (("keywords", [other for other in named if other is not each]) for each in named if each.arg)
        case ast.Constant(value=bool(flag)):
            yield "value", not flag
        case ast.Constant(value=int(number) | float(number)):
            yield from (("value", number + 1), ("value", number - 1))
        case ast.Constant(value=str(text)):
            yield from (("value", other) for other in (f"{text}X", "") if other != text)
        case ast.Constant(value=bytes(octets)):
            yield "value", octets + b"X"
        case _:
            pass


def _with(node: ast.AST, field: str, value: object) -> ast.AST:
    changed = copy(node)
    setattr(changed, field, value)
    return changed


def _defines_a_variable(node: ast.AST) -> bool:
    """Return True if an assignment defines variables without their former values. Any test would fail without it."""
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    defined = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    used = {each.id for each in ast.walk(node.value or node) if isinstance(each, ast.Name)}
    return all(isinstance(each, ast.Name | ast.Tuple) for each in targets) and not defined & used


def _is_left_out(node: ast.AST) -> bool:
    """Return True for types, documentation, imports and `__all__`.

    Also return True for what makes no difference as long as the program is right: `assert_never` and the arguments of a
    dataclass.
    """
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.AnnAssign(value=None):
            return True
        case ast.If(test=ast.Name("TYPE_CHECKING")) | ast.Assign(targets=[ast.Name("__all__")]):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name("assert_never"))) | ast.Call(func=ast.Name("dataclass")):
            return True
        case ast.Subscript(value=ast.Name("Literal")) | ast.ClassDef(bases=[*_, ast.Name("Protocol")]):
            return True
        case _:
            return False


def _places(path: str, node: ast.AST, statement: ast.stmt, *, is_imported: bool) -> Iterator[Place]:
    """Yield the places inside a node."""
    if _is_left_out(node):
        return
    children: Iterable[ast.AST | None] = ast.iter_child_nodes(node)
    body: Sequence[ast.stmt] = ()
    match node:
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            children, body = [*node.decorator_list, *args.defaults, *args.kw_defaults], node.body
        case ast.Call(func=ast.Name("zip")):
            children = node.args  # ``strict`` makes no difference as long as the program is right
        case ast.AnnAssign(target=target, value=value):
            children = [target, value]
        case ast.JoinedStr():
            children = []  # before Python 3.12, the tree does not say where the parts of an f-string are
        case _:
            pass
    if children is not getattr(node, "args", None):
        yield Place(path, node, statement, is_imported)
    for each in children:
        if each is not None:
            yield from _places(path, each, each if isinstance(each, ast.stmt) else statement, is_imported=is_imported)
    for each in body:
        yield from _places(path, each, each, is_imported=False)


def mutants(seed: int, pattern: str) -> Iterator[Mutant]:
    """Yield mutants of the files whose names match a pattern, in an order that the seed determines."""
    random = Random(seed)
    names = {path: path.removeprefix("retrycli/") for path in SOURCES}
    found = [
        place
        for path, name in names.items()
        if fnmatch(name, pattern) and not any(fnmatch(name, each) for each in LEFT_OUT)
        for each in ast.parse(SOURCES[path]).body
        for place in _places(path, each, each, is_imported=True)
        if any(place.changes())
    ]
    for place in sorted(found, key=lambda place: -(random.random() ** (1 / place.weight))):
        if (mutant := _mutant(place, random)) is not None:
            yield mutant


def _mutant(place: Place, random: Random) -> Mutant | None:
    """Return a mutant of a place, or None if it is left out, can't be compiled or means the same."""
    target, new = random.choice([*place.changes()])
    assert isinstance(target, ast.expr | ast.stmt)
    lines = SOURCES[place.path].encode().splitlines(keepends=True)
    begin, end = target.lineno - 1, target.end_lineno or target.lineno
    head, tail = lines[begin][: target.col_offset], lines[end - 1][target.end_col_offset :]
    try:
        written = (ast.unparse(new) if isinstance(new, SIMPLE) else f"({ast.unparse(new)})").encode()
        changed = head + written + b"\n" * (end - begin - 1) + tail  # the lines after it keep their numbers
        text = b"".join([*lines[:begin], changed, *lines[end:]]).decode()
        compile(text, place.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    if ast.dump(ast.parse(text)) == ast.dump(ast.parse(SOURCES[place.path])):
        return None
    before, after = (" ".join(each.decode().split()) for each in (b"".join(lines[begin:end]), changed))
    first, body = place.statement.lineno, getattr(place.statement, "body", None)
    last = body[0].lineno if isinstance(body, list) else (place.statement.end_lineno or first) + 1
    is_function = isinstance(place.statement, ast.FunctionDef | ast.AsyncFunctionDef)
    return Mutant(
        change=Change(place.path, before, after),
        text=text,
        line=begin + 1,
        lines=range(begin + 1, end + 1),
        statement=range(first, max(last, first + 1)),
        is_imported=place.is_imported,
        body=range(last, place.statement.end_lineno or last) if is_function else range(0),
        branch=_branch(place.statement),
        names=_defined(place.statement),
    )


def _branch(statement: ast.stmt) -> range:
    if not isinstance(statement, ast.If | ast.While):
        return range(0)
    return range(statement.body[0].lineno, (statement.body[-1].end_lineno or 0) + 1)


def _defined(statement: ast.stmt) -> tuple[str, ...]:
    """Return the names that a statement defines."""
    targets: Sequence[ast.AST] = getattr(statement, "targets", [getattr(statement, "target", statement)])
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return (statement.name,)
    return tuple(node.id for each in targets for node in ast.walk(each) if isinstance(node, ast.Name))
