"""Gateways deliver a message and return an outcome. They never raise for an error of the other side."""

import sys

# httpx imports click, rich and pygments for its own command line if they are installed, as they are with apprise. It
# works without that module.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
