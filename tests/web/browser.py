"""A browser without scripts: it opens pages, follows redirects, keeps cookies, and sends forms as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urljoin

import httpx
from starlette.types import ASGIApp

HOST = "desk.example.com"
ORIGIN = f"http://{HOST}"
VOID = frozenset({"input", "meta", "link", "br", "path", "rect", "hr", "img"})
MOST_REDIRECTS = 5


@dataclass
class HtmlForm:
    """A form of a page: where it goes, its fields as a browser would send them, and its buttons."""

    method: str
    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """The name, value, text and state (enabled) of each button."""
    choices: dict[str, list[str]] = field(default_factory=dict)


class HtmlPage(HTMLParser):
    """A page as a browser parses it. Every element must be closed."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.status = answer.status_code
        self.url = str(answer.request.url).removeprefix(ORIGIN)
        self.links: list[str] = []
        self.forms: list[HtmlForm] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self._select: str | None = None
        self.feed(answer.text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))
        elif tag == "form":
            self.forms.append(HtmlForm(str(given.get("method", "get")).lower(), str(given.get("action", ""))))
        elif tag == "input" and self.forms and "form" in self.open and given.get("name"):
            self._input(given)
        elif tag == "button" and "form" in self.open:
            button = (str(given.get("name") or ""), str(given.get("value") or ""), "", "disabled" not in given)
            self.forms[-1].buttons.append(button)
        elif tag == "textarea":
            self.forms[-1].fields.append((str(given["name"]), ""))
        elif tag == "select":
            self._select = str(given["name"])
            self.forms[-1].choices[self._select] = []
        elif tag == "option" and self._select is not None:
            self._option(given)

    def _input(self, given: Mapping[str, str | None]) -> None:
        name, value = str(given["name"]), given.get("value") or ""
        if given.get("type") in {"checkbox", "radio"}:
            self.forms[-1].choices.setdefault(name, []).append(value)
            if "checked" not in given:
                return
        self.forms[-1].fields.append((name, value))

    def _option(self, given: Mapping[str, str | None]) -> None:
        assert self._select is not None
        form = self.forms[-1]
        if "value" in given:
            form.choices[self._select].append(given["value"] or "")
        if "selected" in given or len(form.choices[self._select]) == 1:
            form.fields = [pair for pair in form.fields if pair[0] != self._select]
            form.fields.append((self._select, given.get("value") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, tag
        if tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        inner = self.open[-1] if self.open else ""
        self.texts.append((inner, data))
        if inner == "textarea":
            name, value = self.forms[-1].fields.pop()
            text = data.removeprefix("\n") if not value else data  # a parser drops the first line break
            self.forms[-1].fields.append((name, value + text))
        if {"button", "form"} <= {*self.open}:
            name, value, text, enabled = self.forms[-1].buttons.pop()
            self.forms[-1].buttons.append((name, value, text + data, enabled))

    @property
    def words(self) -> str:
        """Return the visible text, with single spaces."""
        return " ".join("".join(text for _, text in self.texts).split())

    def within(self, tag: str) -> str:
        """Return the text directly in elements of one kind."""
        return " ".join(text for inner, text in self.texts if inner == tag)

    def form(self, action: str) -> HtmlForm:
        """Return the form that goes to an address."""
        return next(form for form in self.forms if form.action.partition("?")[0].endswith(action))

    def has_form(self, action: str) -> bool:
        return any(form.action.partition("?")[0].endswith(action) for form in self.forms)


@dataclass
class Browser:
    """One browser with its cookies. It sends what a browser on our own page sends."""

    app: ASGIApp
    root: str
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)
    headers: dict[str, str] = field(default_factory=lambda: {"Sec-Fetch-Site": "same-origin"})

    def open(self, path: str, **more: Any) -> HtmlPage:  # noqa: ANN401  httpx's arguments
        """Open a page below the console's root, and follow redirects."""
        return self._request("GET", self.root + path, **more)

    def follow(self, page: HtmlPage, text_or_href: str) -> HtmlPage:
        """Follow the link of a page whose address contains a text."""
        href = next(link for link in page.links if text_or_href in link)
        return self._request("GET", urljoin(page.url, href))

    def submit(self, page: HtmlPage, action: str = "", /, press: str | None = None, **values: Any) -> HtmlPage:  # noqa: ANN401
        """Send a form of a page with the given values instead of those in its fields.

        Args:
            page: the page.
            action: the end of the form's address; by default the page's last form.
            press: the text of the button.
            values: the values; a list for ticked boxes.
        """
        form = page.form(action) if action else page.forms[-1]
        fields = [pair for pair in form.fields if pair[0] not in values]
        for name, value in values.items():
            fields += [(name, each) for each in (value if isinstance(value, list) else [value])]
        if press is not None:
            name, value, _, enabled = next(button for button in form.buttons if press in button[2])
            assert enabled, press
            fields += [(name, value)] if name else []
        address = urljoin(page.url, form.action)
        if form.method == "get":
            return self._request("GET", f"{address}?{urlencode(fields)}")
        text = urlencode([(name, _crlf(value)) for name, value in fields])
        return self._request("POST", address, content=text, headers=FORM)

    def post(self, path: str, **values: str) -> HtmlPage:
        """Send a form that no page offered."""
        return self._request("POST", self.root + path, content=urlencode(values), headers=FORM)

    def fetch(self, address: str) -> httpx.Response:
        """Return the response for an address that is not a page."""
        return self._answer("GET", address)

    def _request(self, method: str, url: str, **request: Any) -> HtmlPage:  # noqa: ANN401  httpx's arguments
        return HtmlPage(self._answer(method, url, **request))

    def _answer(self, method: str, url: str, **request: Any) -> httpx.Response:  # noqa: ANN401  httpx's arguments
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {**self.headers, **request.pop("headers", {})}
            async with httpx.AsyncClient(
                transport=transport, base_url=ORIGIN, cookies=self.cookies, max_redirects=MOST_REDIRECTS
            ) as client:
                answer = await client.request(method, url, headers=headers, follow_redirects=True, **request)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def _crlf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").replace("\0", "\ufffd")
