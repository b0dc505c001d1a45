"""Fingerprints of escalations: messages with the same cause share one, so that one decision can cover all of them."""

import hashlib
import re

from retrycli.domain.retry_policy import ENDED, EXHAUSTED
from retrycli.domain.transition import Decision

# Length of a fingerprint in hexadecimal digits (48 bits): short enough to type, long enough that a collision among a
# million causes is unlikely.
LENGTH = 12

# Compiled on first use, because few passes compare errors.
VARIABLE = r"""(?P<kept>\b(?:HTTP|SMTP)\ \d{3}\b(?:\ \d\.\d+\.\d+\b)?)    # keep the status: it shows the kind of error
    |(?:[^\s<>"'()\[\]{}:;,=@]|(?<=\w)'(?=\w)){1,64}@[^\s<>"'()\[\]{}:;,=]+    # an email address (RFC 5321, 4.5.3.1.1)
    |\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b             # a UUID
    |\b(?=[a-z_-]{0,64}\d)[0-9a-z][0-9a-z_-]{7,}\b               # an id of letters and digits
    |\d+(?:[.,:]\d+)*                                            # a number, a time, an IP address
"""
# Maximum number of characters of an error to compare, because matching `VARIABLE` may take quadratic time.
COMPARED_LENGTH = 1000
LAST_ERROR = f"(?:{EXHAUSTED.pattern}|{ENDED.pattern})(?: Last error: )?"


def cause(error: str) -> str:
    """Replace numbers, addresses and ids in a ``last_error``, so that errors with the same cause have equal texts. It
    may have the prefix of an exhausted message.
    """
    last_error = (re.sub(LAST_ERROR, "", error[: 2 * COMPARED_LENGTH], count=1).strip() or error)[:COMPARED_LENGTH]
    return re.sub(VARIABLE, lambda found: found["kept"] or "…", last_error, flags=re.VERBOSE | re.IGNORECASE)


def fingerprint(decision: Decision) -> str:
    """Return the fingerprint of an escalation: a hash of its outcome, status code and cause.

    If the decision has no outcome, for example because the message expired, hash the escalation's reason instead.
    """
    outcome, transition = decision.outcome, decision.transition
    kind, status = (outcome.kind, outcome.status_code) if outcome else (transition.reason, None)
    # If the row can't be written, it gets no error, and only the outcome has the cause.
    error = transition.last_error or (outcome.error if outcome else None) or ""
    parts = (str(kind), str(status), cause(error))
    return hashlib.sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:LENGTH]
