"""Gateways deliver a message and return an outcome. They never raise an exception for an error at the destination."""

import sys

# Prevent httpx from importing its command line, which would load click, rich and pygments if they are installed. The
# rest of httpx works without its command line.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
