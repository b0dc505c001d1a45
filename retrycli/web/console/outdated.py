"""Tell when a message's last error is from before its requeue."""

from retrycli.domain.message import State
from retrycli.domain.retry_policy import EXHAUSTED


def is_outdated(state: object, last_error: object, made: object, allowed: int | None) -> bool:
    """Return whether an error says that the retries are used up, although the message waits and has some left. ``made``
    is None if the retry count is invalid, and ``allowed`` if the message's type is unknown.
    """
    if state != State.WAITING or not isinstance(made, int) or allowed is None:
        return False
    return made < allowed and EXHAUSTED.match(str(last_error)) is not None
