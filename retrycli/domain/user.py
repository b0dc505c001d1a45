"""Users of the console and the HTTP API, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Right(StrEnum):
    """A permission that a page or a request of the HTTP API requires."""

    READ = "read"  # counts, passes, statistics
    READ_TEXT = "read text"  # the text of messages, also in lists: what customers wrote
    METRICS = "metrics"  # numbers for Prometheus
    ACT = "act"  # retry, requeue, reject, note, acknowledge, look up, mark as sent
    EDIT = "edit"
    BULK = "bulk"  # act on all messages that a filter matches
    PAUSE = "pause"


READING = frozenset({Right.READ, Right.READ_TEXT, Right.METRICS})


class Role(StrEnum):
    """The role of a user. A viewer may read everything; an operator may also change it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    METRICS = "metrics"  # of Prometheus, which needs nothing else

    @property
    def rights(self) -> frozenset[Right]:
        """Return the rights of this role."""
        match self:
            case Role.METRICS:
                return frozenset({Right.METRICS})
            case Role.VIEWER:
                return READING
            case Role.OPERATOR:
                return frozenset(Right)


@dataclass(frozen=True, slots=True)
class User:
    """A user of the console or the HTTP API. The history records the name with each action."""

    name: str
    role: Role

    def may(self, right: Right, *, read_only: bool = False) -> bool:
        """Return whether the user has a right.

        Args:
            right: the right.
            read_only: nobody may change anything (``web.read_only``).
        """
        return right in self.role.rights and (right in READING or not read_only)
