"""Fixtures for tests of the HTTP API and the console: an installation, its users, and their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from retrycli import operations
from retrycli.config.settings import Settings, WebSettings
from retrycli.domain.user import Role
from retrycli.operations.sandbox import Sandbox
from retrycli.web.server import application as served_application
from tests.cli.api import REJECTS
from tests.cli.application import Application
from tests.cli.conftest import application, at_work, cli, prepared, sandbox, templates
from tests.cli.story import Api
from tests.web.browser import Browser

__all__ = ["application", "at_work", "cli", "prepared", "sandbox", "templates"]

HOST = "desk.example.com"
API = "/api/messages"
PAGES = "/messages"


@dataclass(frozen=True)
class Client:
    """Calls the application as a server does, each request in an event loop of its own."""

    app: ASGIApp
    headers: Mapping[str, str]

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401  httpx's arguments
        """Make one request. An exception of the application becomes an empty response with the status 500."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {**self.headers, **request.pop("headers", {})}
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, path, headers=headers, **request)

        return asyncio.run(ask())

    def get(self, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401  httpx's arguments
        return self("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401  httpx's arguments
        return self("POST", path, **request)


@dataclass
class Desk:
    """One installation of retrycli that is served over HTTP, with an operator and a viewer."""

    application: Application
    settings: Settings
    tokens: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def app(self) -> ASGIApp:
        return served_application(self.settings)

    def client(self, user: str | None = None, **headers: str) -> Client:
        """Return a client, by default without credentials. With a user's name it sends the user's token."""
        credentials = {} if user is None else {"Authorization": f"Bearer {self.tokens[user]}"}
        return Client(self.app, {**credentials, **headers})

    def browser(self, user: str | None = None, *, root: str = PAGES) -> Browser:
        """Return a browser, in which a user is signed in."""
        browser = Browser(self.app, root)
        if user is not None:
            assert browser.submit(browser.open("/sign-in"), token=self.tokens[user]).url == f"{root}/"
        return browser

    @cached_property
    def operator(self) -> Client:
        return self.client("anna")

    @cached_property
    def viewer(self) -> Client:
        return self.client("vera")

    @cached_property
    def stranger(self) -> Client:
        return self.client()


@pytest.fixture
def api() -> Iterator[Api]:
    """Provide a ticketing API that rejects a message, until the test changes its answers."""
    with Api(REJECTS) as api:
        yield api


@pytest.fixture
def desk(application: Application, sandbox: Sandbox, tmp_path: Path) -> Desk:
    """Provide an installation with the operator Anna and the viewer Vera."""
    web = WebSettings(tokens_file=tmp_path / "tokens.json", allowed_hosts=(HOST,))
    settings = application.settings(sandbox.url).model_copy(update={"web": web})
    roles = {"anna": Role.OPERATOR, "vera": Role.VIEWER}
    tokens = {name: operations.tokens.add(settings, name, role) for name, role in roles.items()}
    return Desk(application, settings, tokens)
