"""Write `constraints.txt`: ``python -m tests.constraints``, in a new environment that was installed without it."""

from __future__ import annotations

from importlib.metadata import distributions

from tests.size import ROOT

FILE = ROOT / "constraints.txt"
OTHERS = frozenset({"retrycli", "pip", "setuptools", "axe-playwright-python"})
"""What the extra `test` does not install."""


def main() -> None:
    """Write the file."""
    versions = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if name not in OTHERS]
    FILE.write_text("".join(["# The versions that passed all tests: see `python -m tests.constraints`.\n", *lines]))


if __name__ == "__main__":
    main()
