"""Print the size of the package and its tests: ``python -m tests.size [FOLDER]``, a checkout of another version."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TEXTS = ("*.md", "*.toml", "*.html", "*.css", "*.js", "*.svg")


class Size(NamedTuple):
    """The figures of one version of the package."""

    entries: int
    """The number of files and folders in the package's top folder."""
    statements: int
    """The number of statements in the syntax trees, which does not depend on the formatting."""
    longest_file: tuple[int, str]
    longest_function: tuple[int, str]
    shared_names: dict[str, list[str]]
    """Class names that several modules define. Protocols do not count."""


def sources(root: Path = ROOT) -> dict[str, str]:
    """Return the text of each module of the package, by its path."""
    package = root / "retrycli"
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}


def size_of(root: Path = ROOT) -> Size:
    texts = sources(root)
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path}:{node.name}")
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    return Size(
        entries=sum(path.name != "__pycache__" for path in (root / "retrycli").iterdir()),
        statements=sum(isinstance(node, ast.stmt) for tree in trees.values() for node in ast.walk(tree)),
        longest_file=max((text.count("\n"), path) for path, text in texts.items()),
        longest_function=max(functions),
        shared_names=_shared_names(trees),
    )


def _shared_names(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
                homes[node.name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def _lines(folder: Path, *patterns: str) -> int:
    files = [path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]
    return sum(path.read_bytes().count(b"\n") for path in files)


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    size = size_of(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    print(f"lines                   {_lines(root / 'retrycli', '*.py'):,}")
    print(f"lines of other text     {_lines(root / 'retrycli', *TEXTS):,} (manual, presets, templates)")
    golden = _lines(root / "tests/golden", "*")
    print(f"lines of tests          {_lines(root / 'tests', '*.py'):,}, golden files {golden:,}")
    print(f"entries at the top      {size.entries}")
    print(f"AST statements          {size.statements:,}")
    print(f"longest file            {size.longest_file[0]} lines ({size.longest_file[1]})")
    print(f"longest function        {size.longest_function[0]} lines ({size.longest_function[1]})")
    print(f"names of two classes    {', '.join(size.shared_names) or 'none'}")
    print(f"README                  {readme.count(chr(10))} lines, {len(readme.split()):,} words")


if __name__ == "__main__":
    main()
