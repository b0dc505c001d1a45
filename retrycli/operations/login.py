"""Name the operator who runs a command."""

import getpass
import os
from contextlib import suppress

from retrycli.domain.message import LONGEST_NAME
from retrycli.domain.sanitize import encodable


def login_name() -> str:
    """Return the operator's name: the user who ran sudo, or the login name; the uid if neither name is usable."""
    names = [os.environ.get("SUDO_USER", "")]
    with suppress(KeyError, OSError):
        names.append(getpass.getuser())
    usable = (name for name in names if 0 < len(name) <= LONGEST_NAME and encodable(name) and name.isprintable())
    return next(usable, f"uid {os.getuid()}")
