"""One request to a page: who makes it, what the user may do, and how links are written on its page."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlencode

from starlette.requests import Request

from retrycli.domain.user import Right, User
from retrycli.web.access import AccessDenied
from retrycli.web.console.forms import Fields
from retrycli.web.routing import encoded_path


@dataclass(frozen=True)
class Visit:
    """One request to a page.

    Attributes:
        request: the request.
        user: the signed-in user; None on pages that anybody may open, and on pages about errors.
        rights: what the user may do on this server.
        fields: the fields of the form that was sent, if any.
    """

    request: Request
    user: User | None = None
    rights: frozenset[Right] = frozenset()
    fields: Fields = ()

    @property
    def by(self) -> str:
        """Return the user's name, for the history.

        Raises:
            AccessDenied: the page was declared for `ANYBODY`, so there is no user.
        """
        if self.user is None:
            raise AccessDenied(HTTPStatus.UNAUTHORIZED, "sign in first")
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
        """Return the path of a page.

        Args:
            parts: the segments below the console's root; each is encoded, so that an id may contain a slash.
            query: the fields of the query. Those that are None are left out. Lists give repeated fields.
        """
        path = f"{self.root}/{'/'.join(quote(str(part), safe='') for part in parts)}"
        fields = urlencode({name: value for name, value in query.items() if value is not None}, doseq=True)
        return f"{path}?{fields}" if fields else path

    @property
    def id(self) -> str:
        """Return the message's id from the path, as opaque text."""
        return str(self.request.path_params["message_id"])
