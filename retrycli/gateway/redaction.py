"""Remove secrets and quotations of a message from error texts.

A text may be escaped on its way into an error: by JSON, Python, HTML or a URL, several times, and each writer escapes
other characters. So texts are compared in a plain form, without any escapes.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

from retrycli.domain.message import Message
from retrycli.domain.outcome import one_line

QUOTED = 16  # minimum number of consecutive characters shared with the message that count as a quotation
SHORTEST = 4  # minimum number of characters of a secret's plain form that are masked
PART = 12  # minimum number of consecutive characters of a secret that are masked: quotations may be shortened
# Maximum number of characters and of texts of a message, in each of two forms, to compare with an error. It takes up to
# half a second.
LOOKED_AT, MOST_TEXTS = 256 * 1024, 500
LONGEST_ERROR = 16 * 1024  # characters of an error to search for secrets; only its first 500 are kept
ROUNDS = 6  # maximum number of times that a text may be escaped

ESCAPED = re.compile(
    r"\\+u(?P<pair>d[89ab][\da-f]{2}\\+ud[c-f][\da-f]{2})"  # a surrogate pair in JSON
    r"|\\+(?-i:U)(?P<long>000[\da-f]{5}|0010[\da-f]{4})"  # Python
    r"|\\+u(?P<code>[\da-f]{4})"
    r"|(?P<bytes>(?:\\+x[89a-f][\da-f])+|(?:%[89a-f][\da-f])+)"  # UTF-8, as Python or a URL writes it
    r"|(?:\\+x|%)(?P<ascii>[0-7][\da-f])"
    r"|\\+(?P<other>.?)"
    r"|&(?P<entity>#0{0,9}\d{1,7}|#x0{0,9}[\da-f]{1,6}|[a-z][a-z\d]{1,30});",
    re.IGNORECASE | re.DOTALL | re.ASCII,  # without ASCII, \d is also a digit that `bytes.fromhex` rejects
)
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
SPACES = re.compile(r"[\s\0]+")  # an error has no NUL

Spans = list[tuple[int, int]]


def without_quotations(error: str, message: Message, sent: Iterable[str] = ()) -> str:
    """Replace quotations of the message's subject, body or attachments in a one-line error with ``…``. If there are
    any, return the error without escapes. ``sent`` are the same texts in the form in which they were sent.
    """
    texts = [*_bounded(_texts(message)), *_bounded(sent)]
    shown = _plain(error)
    if quoted := _shared(_with_spaces(shown), _with_spaces("\0".join(map(_plain, texts)))):
        error = _masked(shown, quoted, "…")
    return _masked(error, _shared(error, "\0".join(SPACES.sub(" ", text) for text in texts)), "…")


def _shared(error: str, words: str, least: int = QUOTED) -> Spans:
    """Return where an error has at least so many characters in a row that occur among the words."""
    found, at = [], 0
    while (end := at + least) <= len(error):
        if error[at:end] not in words:
            at += 1
            continue
        while end < len(error) and error[at : end + 1] in words:
            end += 1
        found.append((at, end))
        at = end
    return found


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    left = LOOKED_AT
    for text in islice(texts, MOST_TEXTS):
        yield text[:left]
        left -= min(len(text), left)


def _texts(message: Message) -> Iterable[str]:
    for name in ("subject", "body"):
        yield str(message.fields[name] or "")
    attachments = message.fields["attachments"]
    for entry in attachments if isinstance(attachments, list) else ():
        yield from map(str, entry.values() if isinstance(entry, dict) else [entry])


def safe_line(error: str, secrets: Sequence[str]) -> str:
    """Return the start of an error on one line, with secrets masked. An answer may quote megabytes."""
    shown = redact_secrets(error[:LONGEST_ERROR], secrets)
    if len(error) > LONGEST_ERROR:  # the cut may have left only the start of a secret, which is not recognised
        longest = max(map(len, secrets), default=0)
        starts = (secret[:n] for n in range(longest, 0, -1) for secret in secrets if n < len(secret))
        shown = shown.removesuffix(next(filter(shown.endswith, starts), ""))
    return one_line(shown)


def redact_secrets(text: str, secrets: Sequence[str]) -> str:
    """Mask secrets in a string, and parts of them from `PART` characters, because the destination may have echoed them.
    If anything is escaped or shortened, return the string without escapes.
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    shown = _plain(text)
    flat, plain = _with_spaces(shown), {_with_spaces(_plain_secret(secret)) for secret in secrets}
    escaped = [found.span() for each in plain if len(each) >= SHORTEST for found in re.finditer(re.escape(each), flat)]
    spans = sorted([*escaped, *_shared(flat, "\0".join(plain), PART)])
    return _masked(shown, spans, "***") if spans else text


def _masked(text: str, spans: Spans, mask: str) -> str:
    kept, done = "", 0
    for start, end in spans:
        if start >= done:
            kept += text[done:start] + mask
        done = max(done, end)
    return kept + text[done:]


def _with_spaces(text: str) -> str:
    """Return a text of the same length in which each plus is a space, as a form means it."""
    return text.replace("+", " ")


def _decoded(escape: re.Match[str]) -> str:
    match escape.lastgroup:
        case "code" | "long":
            return chr(int(escape[escape.lastgroup], 16))
        case "pair":
            units = re.findall(r"[0-9a-f]{4}", escape["pair"], re.IGNORECASE)
            return bytes.fromhex("".join(units)).decode("utf-16-be", "replace")
        case "bytes":
            content = bytes.fromhex(re.sub(r"\\+x|%", "", escape["bytes"], flags=re.IGNORECASE))
            try:
                return content.decode()
            except UnicodeDecodeError:
                return content.decode("latin-1")
        case "ascii":
            return chr(int(escape["ascii"], 16))
        case "other":
            return CONTROLS.get(escape["other"], escape["other"])
        case _:
            return html.unescape(escape[0])


def _plain(text: str) -> str:
    """Return a text without escapes, and with single spaces."""
    for _ in range(ROUNDS):
        before, text = text, ESCAPED.sub(_decoded, text)
        if text == before:
            break
    return SPACES.sub(" ", text)


_plain_secret = lru_cache(maxsize=32)(_plain)
