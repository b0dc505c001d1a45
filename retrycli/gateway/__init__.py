"""What delivers: it turns a message into an outcome, and never raises for what the other side did."""

import sys

# Where click, rich and pygments are installed, as they are beside apprise, httpx loads them all for a command line of
# its own; where they are not it does without, and so it does here.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
