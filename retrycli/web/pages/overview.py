"""The first page: the state, the counts, what needs an operator, and the failed messages."""

from __future__ import annotations

from http import HTTPMethod
from typing import TYPE_CHECKING

from retrycli.domain.user import Right
from retrycli.web.pages.routes import NoFields, page

if TYPE_CHECKING:
    from starlette.responses import Response

    from retrycli.web.pages.console import Console
    from retrycli.web.pages.visit import Visit


class OverviewPages:
    """The first page."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @page(HTTPMethod.GET, "/", Right.READ)
    def overview(self, visit: Visit, _: NoFields) -> Response:
        """Show the state and the counts."""
        return self._console.show(visit, "overview.html")
