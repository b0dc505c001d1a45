"""The HTTP API and the console: parse a request, call one operation, show the result.

    app.include_router(retrycli.web.api(settings, user=who), prefix="/api/messages")
    app.mount("/messages", retrycli.web.pages(settings, user=who))

``who`` returns the user of a request, or None. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.user import Role, User

if TYPE_CHECKING:
    from fastapi import APIRouter
    from starlette.applications import Starlette

    from retrycli.config.settings import Settings
    from retrycli.web.access import Who

__all__ = ["Role", "User", "api", "pages"]


def api(settings: Settings, *, user: Who) -> APIRouter:
    """Return the HTTP API, for an application that uses FastAPI.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        user: returns the user of a request; None if the request has no valid credentials. It may be a coroutine
            function.

    Raises:
        ConfigurationError: the extra ``web`` is not installed.
    """
    try:
        from retrycli.web import access, http_api, status
    except ImportError as error:
        raise ConfigurationError(f"the HTTP API needs the extra `web`, because {error.name} is missing") from None
    return http_api.make_api(settings, access.Access.of(settings, user), status.RecentStatus(settings))


def pages(settings: Settings, *, user: Who, key: bytes | None = None) -> Starlette:
    """Return the pages of the console, for an application that mounts them.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        user: as for `api`.
        key: a secret of the application that all its worker processes share. It signs the notices and the progress of
            actions on many messages. Without it, another worker can't continue such an action.

    Raises:
        ConfigurationError: the extra ``web`` is not installed.
    """
    try:
        from retrycli.web import access, status
        from retrycli.web.console.application import make_pages
    except ImportError as error:
        raise ConfigurationError(f"the console needs the extra `web`, because {error.name} is missing") from None
    return make_pages(settings, access.Access.of(settings, user), status.RecentStatus(settings), key=key)
