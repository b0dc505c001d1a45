"""The pages to sign in with a token and to sign out, and the static files: what anybody may open."""

import re
from http import HTTPStatus
from urllib.parse import unquote

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from retrycli.web import sessions
from retrycli.web.access import CHALLENGE
from retrycli.web.console.context import MEDIA_TYPES, Console, Pages, Visit
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import ANYBODY, NoFields, page
from retrycli.web.inputs import Text
from retrycli.web.sign_in import TokenUsers

PATH = re.compile(r"/[!-\[\]-~]*")  # visible ASCII, without a backslash
YEAR = 365 * 86_400  # seconds


class NextPage(Form):
    """The page to open after signing in."""

    following: str = Field("", alias="next")


class SignInForm(NextPage):
    """A token, and the page to open after signing in."""

    token: Text = Field(min_length=1)


class AssetQuery(Form):
    """The version of a static file."""

    version: str = Field("", alias="v")


class SignInPages(Pages):
    """Sign in and out. Only `retrycli serve` has these pages; an application signs its users in by itself."""

    def __init__(self, console: Console, users: TokenUsers) -> None:
        super().__init__(console)
        self._users = users

    @page("GET", "/sign-in", ANYBODY, NextPage)
    def sign_in_page(self, visit: Visit, form: NextPage) -> Response:
        """Show the form for the token."""
        if self._users(visit.request) is not None:
            return self._console.redirect(visit, following_page(visit, form.following))
        return self._form(visit, form)

    @page("POST", "/sign-in", ANYBODY, SignInForm)
    def sign_in(self, visit: Visit, form: SignInForm) -> Response:
        """Exchange a token for the cookie of a session."""
        token = self._users.sign_in(visit.request, form.token.strip())
        if token is None:
            return self._form(visit, form, HTTPStatus.UNAUTHORIZED)
        response = self._console.redirect(visit, following_page(visit, form.following))
        response.set_cookie(
            **self._users.cookie_settings(visit.request),
            value=self._users.cookie(token),
            max_age=round(sessions.LENGTH.total_seconds()),
        )
        return response

    @page("POST", "/sign-out", ANYBODY)
    def sign_out(self, visit: Visit, _: NoFields) -> Response:
        """End the session, and delete its cookie."""
        if (session := self._users.session(visit.request)) is not None:
            self._users.sign_out(session)
        response = self._console.redirect(visit, visit.to("sign-in"), "You are signed out.")
        response.delete_cookie(**self._users.cookie_settings(visit.request))
        return response

    def _form(self, visit: Visit, form: NextPage, code: HTTPStatus = HTTPStatus.OK) -> Response:
        refused = code == HTTPStatus.UNAUTHORIZED
        response = self._console.render(visit, "sign_in.html", code=code, following=form.following, refused=refused)
        if refused:
            response.headers.update(CHALLENGE)
        return response


class AssetPages(Pages):
    """The style sheet, the script and the icon."""

    @page("GET", "/static/{name}", ANYBODY, AssetQuery)
    def asset(self, visit: Visit, query: AssetQuery) -> Response:
        """Return a static file. Browsers may keep the version that a page asks for."""
        name = str(visit.request.path_params["name"])
        content = self._console.assets.get(name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        is_current = query.version == self._console.versions[name]
        kept = f"public, max-age={YEAR}, immutable" if is_current else "no-cache"
        return Response(content, media_type=MEDIA_TYPES[name.partition(".")[2]], headers={"Cache-Control": kept})


def following_page(visit: Visit, wanted: str) -> str:
    """Return the path of the page to open after signing in: the wanted one if it is below the console's root.

    Anything else, such as ``//evil.example``, could be the address of another site, and gives the first page.
    """
    below = wanted.removeprefix(visit.root)
    path = unquote(below.partition("?")[0])
    is_below = wanted.startswith(visit.root) and PATH.fullmatch(below) is not None
    if is_below and not path.startswith("//") and not {"..", "."}.intersection(path.split("/")):
        return wanted
    return visit.to()
