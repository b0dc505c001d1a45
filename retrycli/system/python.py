"""Install optional dependencies."""

import sys


def install(extra: str) -> str:
    """Return the command that installs an extra for the running Python, to which the first `pip` in the search path may
    not belong.
    """
    return f"{sys.executable} -m pip install 'retrycli[{extra}]'"
