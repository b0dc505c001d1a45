"""What all pages share: the request and its user, settings, rights, the scheduler's status, and the templates.

The templates' environment escapes everything, and makes control characters visible. Sentences name the console's
buttons and pages instead of commands, because its users may have no shell.
"""

import hashlib
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from importlib import resources
from urllib.parse import quote, urlencode

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.duration import in_words, utc_text
from retrycli.domain.message import MessageId, State
from retrycli.domain.operator_action import no_such
from retrycli.domain.retry_policy import EXHAUSTED
from retrycli.domain.sanitize import printable, shortened, storable
from retrycli.domain.user import Right, User
from retrycli.operations.status import Status
from retrycli.views.formatting import count, local_time, with_times
from retrycli.views.report.page import visible, whole
from retrycli.views.report.recent import RecentPasses, sample, strip
from retrycli.web import sessions
from retrycli.web.access import CHALLENGE, Access, AccessDenied
from retrycli.web.console.forms import Fields
from retrycli.web.routing import encoded_path
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus

# The words for a command, with a place for its first argument. Other commands stay: they need a shell on the server.
IN_THE_CONSOLE: Mapping[str, str] = {
    "retry": "“Retry now”",
    "look-up": "“Look up”",
    "edit": "“Edit”",
    "requeue": "“Requeue”",
    "reject": "“Reject”",
    "mark-sent": "“Mark as sent”",
    "show": "the page of message {}",
    "explain": "the page of message {}",
    "pause": "“Pause” on the page “Passes”",
    "resume": "“Resume deliveries” on the page “Passes”",
    "passes": "the page “Passes”",
    "status": "the state at the top of each page",
    "list-failed": "the page “Messages”",
    "escalations": "the page “Escalations”",
}
NAMES = "|".join(IN_THE_CONSOLE)
# A text may quote what a client sent. Both patterns take linear time for any text.
IN_BACKTICKS = re.compile(r"(?P<run>\b[Rr]un )?`(?P<command>[^`]*)`")
COMMAND = re.compile(
    rf"(?:.*[/ ])?retrycli (?:--config \S+ )?(?P<name>{NAMES})(?: (?:-- )?(?P<argument>[^ ]+).*)?", re.DOTALL
)


def in_console(text: str) -> str:
    """Return a sentence of retrycli with buttons and pages instead of the commands that do the same."""
    return IN_BACKTICKS.sub(_words, text) if "retrycli " in text else text


def _words(found: re.Match[str]) -> str:
    command = COMMAND.fullmatch(found["command"])
    if command is None:
        return found[0]
    words, argument = IN_THE_CONSOLE[command["name"]], command["argument"]
    if command["name"] == "resume" and argument:
        words = "“Release” on the page “Passes”"
    verb = "" if found["run"] is None else "open " if words.startswith("the ") else "use "
    if found["run"] is not None and found["run"][0].isupper():
        verb = verb.capitalize()
    return verb + words.format(argument)


SHORT = 160  # maximum number of characters of a text in a list
LONGEST_CELL = 60
LONGEST_MARK = 30
QUOTED = re.compile(r"`([^`]+)`")


def make_environment() -> Environment:
    """Return the environment of the templates."""
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("retrycli.web.console"),
                PrefixLoader({"report": PackageLoader("retrycli.views.report", "")}),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=visible,  # no template can forget it
    )
    environment.filters |= {
        "line": line,
        "field": escape,  # the value of a form's field stays as it is
        "id": lambda value: line(value) if isinstance(value, MessageId) else value,  # text of another system
        "short": short,
        "lines": lines,
        "mark": mark,
        "whole": whole,
        "words": words,
        "number": "{:,}".format,
        "figure": "{:g}".format,
        "length": in_words,
        "moment": moment,
        "cell": cell,
        "told": told,
    }
    environment.globals |= {"amount": count, "Right": Right, "longest_reason": operations.bulk.LONGEST_REASON}
    environment.globals["state_words"] = operations.words.listed_state
    return environment


def line(text: object) -> Markup:
    """Return a text of another system for one line: control characters are visible, and its direction stays its own."""
    return Markup(f"<bdi>{escape(printable(str(text)))}</bdi>")  # noqa: S704  faster than `Markup.format`


def short(text: object, longest: int = SHORT) -> Markup:
    """Return a text like `line`, shortened."""
    return line(shortened(str(text), longest))


def lines(text: str) -> Markup:
    """Return a text of several lines. Line breaks stay, and other control characters are visible."""
    return Markup("\n").join(line(each) for each in text.split("\n"))


def mark(text: object, state: object) -> Markup:
    """Return a word whose look shows a state."""
    look, word = escape(str(state).replace("_", "-")), short(str(text).replace("_", " "), LONGEST_MARK)
    return Markup(f'<span class="mark s-{look}">{word}</span>')  # noqa: S704  both are escaped


def words(text: str) -> Markup:
    """Return a sentence of retrycli, with the console's buttons instead of commands, and other commands as code."""
    escaped = str(escape(printable(in_console(text))))
    return _timed(QUOTED.sub(r"<code>\1</code>", escaped) if "`" in escaped else escaped)


def told(text: str, longest: int) -> Markup:
    """Return words of retrycli about what an operator did, shortened. They may quote the operator."""
    return _timed(short(text, longest))


def _timed(escaped: str) -> Markup:
    return Markup(with_times(escaped, moment))  # noqa: S704  it is escaped


def moment(time: datetime) -> Markup:
    """Return a time in UTC, as an element. The script shows it in the browser's zone."""
    return Markup(f'<time datetime="{utc_text(time)}">{local_time(time, UTC)}</time>')  # noqa: S704  only digits


def cell(value: object) -> object:
    """Return a value for a cell of a list."""
    return "–" if value is None else moment(value) if isinstance(value, datetime) else short(value, LONGEST_CELL)


def is_outdated(state: object, last_error: object, made: object, allowed: int | None) -> bool:
    """Return whether an error says that the retries are used up, although the message waits and has some left. ``made``
    is None if the retry count is invalid, and ``allowed`` if the message's type is unknown.
    """
    if state != State.WAITING or not isinstance(made, int) or allowed is None:
        return False
    return made < allowed and EXHAUSTED.match(str(last_error)) is not None


@dataclass(frozen=True)
class Visit:
    """One request to a page."""

    request: Request
    user: User | None = None  # None on pages that anybody may open, and on pages about errors
    rights: frozenset[Right] = frozenset()  # what the user may do on this server
    fields: Fields = ()  # the fields of the form that was sent, if any

    @property
    def by(self) -> str:
        """Return the user's name, for the history.

        Raises:
            AccessDenied: the page was declared for `ANYBODY`, so there is no user.
        """
        if self.user is None:
            raise AccessDenied(HTTPStatus.UNAUTHORIZED, "sign in first", CHALLENGE)
        return self.user.name

    @property
    def root(self) -> str:
        """Return the path of the console, without a slash at its end."""
        return quote(str(self.request.scope.get("root_path", "")))

    @property
    def here(self) -> str:
        """Return the path of the request, as a browser would write it, without its query."""
        path = encoded_path(self.request.scope)
        return path if path == self.root or path.startswith(f"{self.root}/") else self.root + path

    @property
    def here_with_query(self) -> str:
        """Return the path and the query of the request."""
        query = self.request.scope["query_string"].decode("latin-1")
        return self.here + (f"?{query}" if query else "")

    def to(self, *parts: object, **query: object) -> str:
        """Return the path of a page below the console's root. Each part is encoded, so that `id_of` returns any id.
        Fields of the query that are None are left out. Lists give repeated fields.
        """
        path = f"{self.root}/{'/'.join(_part(str(part)) for part in parts)}"
        given = {name: value for name, value in query.items() if value is not None}
        fields = urlencode(given, doseq=True, errors="backslashreplace")  # as `as_utf8`
        return f"{path}?{fields}" if fields else path

    @property
    def id(self) -> str:
        """Return the message's id from the path, as opaque text.

        Raises:
            NoSuchMessage: no database can hold the text.
        """
        text = id_of(self.request.path_params["message_id"])
        if not storable(text):
            raise no_such(printable(text))
        return text


def id_of(text: str) -> str:
    """Return the id for which `Visit.to` made a part of a path. Other texts are ids as they are."""
    with suppress(ValueError):
        return urlsafe_b64decode(f"{text[1:]}==").decode() if text.startswith("~") else text
    return text


def _part(text: str) -> str:
    """Return a part of a path. base64url hides slashes and dots, which a browser or proxy may normalise."""
    if not SPECIAL.search(text):
        return quote(text, safe="")
    return f"~{urlsafe_b64encode(text.encode()).decode().rstrip('=')}"


SPECIAL = re.compile(r"[/\\%]|^~|^\.{1,2}\Z")
# The pages in the navigation: their names, and the segments of their paths.
PAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Messages", ()),
    ("Escalations", ("escalations",)),
    ("Passes", ("passes",)),
    ("Statistics", ("stats",)),
)
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
STYLE = "console.css"
NOTICE = "retrycli_notice"  # the cookie with the result of a form, for the page that is shown next
NOTICE_SECONDS = 60
LONGEST_NOTICE = 600  # characters; browsers store at most 4096 bytes


class Console:
    """What all pages share. Without ``users``, the application that mounts the pages signs its users in."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        status: RecentStatus,
        users: TokenUsers | None,
        *,
        key: bytes | None = None,
    ) -> None:
        self.settings = settings
        self.access = access
        self.status = status
        self.is_mounted = users is None
        # With a proxy's header, the proxy signs users in.
        self.users = users if settings.web.user_header is None else None
        self._key = key or (secrets.token_bytes() if users is None else users.key)
        self._environment = make_environment()

    @cached_property
    def assets(self) -> dict[str, bytes]:
        """Return the static files, by name."""
        folder = resources.files("retrycli.web.console") / "static"
        found = {
            file.name: file.read_bytes() for file in folder.iterdir() if file.name.partition(".")[2] in MEDIA_TYPES
        }
        charts = (resources.files("retrycli.views.report") / "charts.css").read_bytes()
        return {**found, STYLE: charts + found[STYLE]}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Return the version of each static file, which changes with its content."""
        return {name: hashlib.sha256(content).hexdigest()[:12] for name, content in self.assets.items()}

    def visit_of(self, request: Request, user: User) -> Visit:
        """Return the visit of a user, with the user's rights on this server."""
        rights = frozenset(each for each in Right if user.may(each, read_only=self.access.read_only))
        return Visit(request, user, rights)

    def show(self, visit: Visit, template: str, *, code: HTTPStatus = HTTPStatus.OK, **values: object) -> Response:
        """Return a page with the state line.

        Raises:
            DatabaseUnavailable, ConfigurationError: the status can't be read.
        """
        status = self.status.read()
        recent = operations.report.recent_passes(self.settings, until=operations.wiring.utc_now())
        return self.render(visit, template, code=code, status=status, recent=recent, **values)

    def render(
        self,
        visit: Visit,
        template: str,
        *,
        code: HTTPStatus = HTTPStatus.OK,
        status: Status | None = None,
        **values: object,
    ) -> Response:
        """Return a page. The state line shows the scheduler's status; without one, there is no line."""

        def asset(name: str) -> str:
            return visit.to("static", name, v=self.versions[name])

        notice = self._notice(visit) if code == HTTPStatus.OK else None
        page = self._environment.get_template(template).render(
            visit=visit,
            to=visit.to,
            asset=asset,
            may=lambda right: right in visit.rights,
            can_sign_out=self.users is not None,
            read_only=self.access.read_only,
            status=status,
            pages=PAGES,
            last_pass=operations.words.last_pass,
            scheduler_state=operations.words.state,
            strip_of=_strip,
            sample=sample,
            as_of=operations.wiring.utc_now(),
            notice=notice,  # it may quote other systems, so its commands stay as they are
            longest_notice=LONGEST_NOTICE,
            **values,
        )
        response = HTMLResponse(page, code, {"Cache-Control": "no-store"})
        if notice is not None:
            response.delete_cookie(**sessions.cookie_settings(NOTICE, visit.request, visit.here))
        return response

    def redirect(self, visit: Visit, path: str, notice: str | None = None) -> Response:
        """Return the answer to a form: the browser opens another page, which shows the result in words."""
        response = RedirectResponse(path, HTTPStatus.SEE_OTHER, {"Cache-Control": "no-store"})
        if notice is not None:
            page = path.partition("?")[0]
            sealed = self.seal(visit, NOTICE, page, notice[:LONGEST_NOTICE])
            cookie = sessions.cookie_settings(NOTICE, visit.request, page)
            response.set_cookie(**cookie, value=sealed, max_age=NOTICE_SECONDS)
        return response

    def _notice(self, visit: Visit) -> str | None:
        """Return the result of the user's form that led to this page; None if there is none."""
        cookie = sessions.cookie_of(NOTICE, visit.request, visit.here)
        match self.unseal(visit, NOTICE, cookie):
            case [page, str(notice)] if page == visit.here:
                return notice
        return None

    def seal(self, visit: Visit, purpose: str, *values: object) -> str:
        """Return JSON values as text that only this server can have made, for this user and purpose."""
        return sessions.seal([_name(visit), *values], self._key, purpose)

    def unseal(self, visit: Visit, purpose: str, text: str) -> list[object] | None:
        """Return the values of a text that `seal` has made for this user and purpose; None for any other text."""
        match sessions.unseal(text, self._key, purpose):
            case [name, *values] if name == _name(visit):
                return values
        return None


class Pages:
    """Pages and forms, each declared with `retrycli.web.console.routes.page`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._settings = console.settings

    def _done(self, visit: Visit, path: str, notice: str) -> Response:
        """Return the answer to a form that has changed something. The next page reads the status again."""
        self._console.status.forget()
        return self._console.redirect(visit, path, notice)


def _name(visit: Visit) -> str | None:
    return None if visit.user is None else visit.user.name


def _strip(found: RecentPasses) -> str:
    hours = round((found.until - found.since).total_seconds() / 3600)
    outages = f"; {count(len(found.outages), 'outage')} of the ticketing API" if found.outages else ""
    began = f"{count(len(found.passes), 'pass')} in the last {count(hours, 'hour')}"
    return strip(found, title=f"{began}, {found.missed} missing{outages}")
