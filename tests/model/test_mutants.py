"""Check that the laws of the model detect errors: each mutation of retrycli breaks one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from tests.model.life import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping

MUTANTS: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]
ROOT = Path(__file__).parents[2]
LIVES = 300
"""The maximum number of lives until a law is broken. Most mutants break one in the first few."""


def mutate(folder: Path, mutant: Mapping[str, Any]) -> None:
    """Copy retrycli into a folder, and mutate the copy."""
    copy = folder / "retrycli"
    shutil.copytree(Path(retrycli.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    module = copy / mutant["module"]
    source = module.read_text()
    for old, new in {mutant["old"]: mutant["new"], **mutant.get("also", {})}.items():
        assert source.count(old) == 1, f"{mutant['module']} has changed: {old!r} is in it {source.count(old)} times"
        source = source.replace(old, new)
    module.write_text(source)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(each, marks=[] if each is MUTANTS[0] else pytest.mark.long) for each in MUTANTS],
    ids=lambda each: each["broken"].replace(" ", "-"),
)
def test_detects_the_mutant(mutant: dict[str, Any], tmp_path: Path) -> None:
    """`python -m` puts the working directory before PYTHONPATH, so the process imports the mutated copy."""
    mutate(tmp_path, mutant)
    how = mutant.get("table", "usual"), *mutant.get("steps", [])
    ended = subprocess.run(
        [sys.executable, "-m", "tests.model", "agent.db", str(LIVES), *how],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found = [line for line in ended.stderr.splitlines() if line.startswith("tests.model.laws.Broken: ")]
    assert ended.returncode == 1, "no law is broken" if not ended.returncode else ended.stderr
    assert found, ended.stderr
    print(found[0])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each["broken"].replace(" ", "-"))
def test_each_mutants_text_exists(mutant: dict[str, Any], tmp_path: Path) -> None:
    """Most mutants run only in the long tests. This test detects by default a mutation whose text no longer exists."""
    mutate(tmp_path, mutant)
    assert set(mutant.get("steps", [])) <= RULES
