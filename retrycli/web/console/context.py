"""What all pages share: settings, rights, the scheduler's status, and the templates."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from http import HTTPStatus
from importlib import resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.user import Right, User
from retrycli.operations.status import Status
from retrycli.views.formatting import count
from retrycli.views.report.recent import RecentPasses, sample, strip
from retrycli.web.access import Access
from retrycli.web.console.rendering import make_environment
from retrycli.web.console.visit import NOTICE, Visit, notice_cookie
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus

# The pages in the navigation: their names, and the segments of their paths.
PAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Messages", ()),
    ("Escalations", ("escalations",)),
    ("Passes", ("passes",)),
    ("Statistics", ("stats",)),
)
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
STYLE = "console.css"
NOTICE_SECONDS = 60


class Console:
    """What all pages share. Without ``users``, the application that mounts the pages signs its users in."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        status: RecentStatus,
        users: TokenUsers | None,
        now: Callable[[], datetime] = operations.wiring.utc_now,
    ) -> None:
        self.settings = settings
        self.access = access
        self.status = status
        self.is_mounted = users is None
        # With a proxy's header, the proxy signs users in.
        self.users = users if settings.web.user_header is None else None
        self.now = now
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
        recent = operations.report.recent_passes(self.settings, until=self.now())
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
        """Return a page. The state line shows the scheduler's status; without one, there is no line. The template gets
        the values.
        """

        def asset(name: str) -> str:
            return visit.to("static", name, v=self.versions[name])

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
            as_of=self.now(),
            **values,
        )
        response = HTMLResponse(page, code, {"Cache-Control": "no-store"})
        if visit.notice is not None:
            response.delete_cookie(NOTICE, path=visit.here, httponly=True, samesite="lax")
        return response

    def redirect(self, visit: Visit, path: str, notice: str | None = None) -> Response:
        """Return the answer to a form: the browser opens another page (see `Visit.to`), which shows the result in
        words.
        """
        response = RedirectResponse(path, HTTPStatus.SEE_OTHER, {"Cache-Control": "no-store"})
        if notice is not None:
            page = path.partition("?")[0]
            response.set_cookie(
                NOTICE,
                notice_cookie(page, notice),
                max_age=NOTICE_SECONDS,
                path=page,
                secure=visit.request.url.scheme == "https",
                httponly=True,
                samesite="lax",
            )
        return response


def _strip(found: RecentPasses) -> str:
    hours = round((found.until - found.since).total_seconds() / 3600)
    outages = f"; {count(len(found.outages), 'outage')} of the ticketing API" if found.outages else ""
    began = f"{count(len(found.passes), 'pass')} in the last {count(hours, 'hour')}"
    return strip(found, title=f"{began}, {found.missed} missing{outages}")
