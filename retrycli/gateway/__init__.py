"""Gateways deliver a message and return an outcome. They never raise an exception for an error at the destination."""

import sys

# Prevent httpx from importing click, rich and pygments, if they are installed, for its own command line. httpx works
# without this module.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
