"""Which pages may be opened: every page × every user × what a browser says about the request's origin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response

from retrycli import operations, web
from retrycli.domain.user import Right, Role, User
from retrycli.web.access import Access
from retrycli.web.console.application import HEADERS, make_pages
from retrycli.web.console.routes import ANYBODY, Anybody, PageRoute, routes_of
from retrycli.web.console.signing_in import following_page
from retrycli.web.console.visit import Visit
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus
from tests.conftest import on_sqlite
from tests.web.browser import HOST
from tests.web.conftest import PAGES
from tests.web.test_access import ORIGINS, session

if TYPE_CHECKING:
    from retrycli.config.settings import Settings
    from tests.web.conftest import Client, Desk

pytestmark = on_sqlite

OPEN = {("GET", "/static/{name}"), ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/sign-out")}
"""The pages that need no user."""


def routes(settings: Settings) -> Iterator[PageRoute]:
    """Yield all routes of the console."""
    users = TokenUsers(settings)
    for route in make_pages(settings, Access(users), RecentStatus(settings), users).routes:
        assert isinstance(route, PageRoute)
        yield route


def requests(settings: Settings) -> Iterator[tuple[str, str, Right | Anybody]]:
    """Yield the method, the path and the right of each page. The paths name no existing message."""
    for route in routes(settings):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = route.path.replace("{message_id}", "999").replace("{name}", "console.css")
            yield method, PAGES + path, route.right


def denied(client: Client, method: str, path: str) -> int | None:
    """Make a request, and return the status if its access was denied. A redirect to sign in counts as 401."""
    answer = client(method, path)
    if answer.status_code == 303 and answer.headers["location"].startswith(f"{PAGES}/sign-in?next="):
        return 401
    return answer.status_code if answer.status_code in {401, 403, 421} else None


def test_only_the_pages_to_sign_in_and_the_static_files_are_open(desk: Desk) -> None:
    found = {
        (method, route.path)
        for route in routes(desk.settings)
        if route.right is ANYBODY
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert found == OPEN


def test_a_page_without_a_declared_right_is_no_page(desk: Desk) -> None:
    class Careless:
        def page(self, visit: Visit, _: object) -> Response:
            return Response(str(visit))

    users = TokenUsers(desk.settings)
    app = make_pages(desk.settings, Access(users), RecentStatus(desk.settings), users)
    console = next(route for route in app.routes if isinstance(route, PageRoute))._console
    assert list(routes_of(console, Careless())) == []


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_form_of_another_site_can_not_be_sent_again(desk: Desk, origin: str) -> None:
    """Otherwise one click of a user would turn it into a form of our own."""
    headers, is_own = ORIGINS[origin]
    client = desk.client(None, **headers)
    for method, path, right in requests(desk.settings):
        if right is not ANYBODY and method == "POST":
            answer = client(method, path)
            assert answer.status_code == (401 if is_own else 403), path
            assert ("Send it again" in answer.text) is is_own, path


def test_each_page_needs_the_declared_right(desk: Desk) -> None:
    stranger = desk.client(None, **ORIGINS["our own page"][0])
    for method, path, right in requests(desk.settings):
        if right is ANYBODY:
            continue
        assert denied(stranger, method, path) == 401, path
        assert denied(desk.operator, method, path) is None, path
        is_reading = right in {Right.READ, Right.READ_TEXT}
        assert denied(desk.viewer, method, path) == (None if is_reading else 403), path
        assert method == "GET" or not is_reading, f"{method} {path} needs only the right to {right}"


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("user", ["anna", "vera"])
def test_a_form_is_only_taken_from_our_own_pages(desk: Desk, origin: str, user: str) -> None:
    headers, is_own = ORIGINS[origin]
    client = desk.client(None, **session(desk, user), **headers)
    role = Role.OPERATOR if user == "anna" else Role.VIEWER
    for method, path, right in requests(desk.settings):
        may = right is ANYBODY or right in role.rights
        expected = None if may and (method == "GET" or is_own) else 403
        if path.endswith("/sign-in") and method == "POST":
            assert client(method, path).status_code == (422 if is_own else 403)
        else:
            assert denied(client, method, path) == expected, f"{method} {path}"


@pytest.mark.parametrize("host", ["evil.example", f"{HOST}.evil.example", "", "[::2]"])
def test_an_unknown_host_is_refused_on_every_page(desk: Desk, host: str) -> None:
    client = desk.client("anna", Host=host)
    for method, path, _ in requests(desk.settings):
        assert denied(client, method, path) == 421, path


def test_a_read_only_server_refuses_every_form_that_changes_something(desk: Desk) -> None:
    desk.settings = desk.settings.model_copy(update={"web": desk.settings.web.model_copy(update={"read_only": True})})
    for method, path, right in requests(desk.settings):
        if right is not ANYBODY:
            expected = None if right in {Right.READ, Right.READ_TEXT} else 403
            assert denied(desk.operator, method, path) == expected, path
    assert "this server is read-only" in desk.browser("anna").open("/").words


def test_no_page_changes_anything_when_it_is_opened(desk: Desk) -> None:
    desk.application.fill()
    operations.run_pass.run_once(desk.settings)
    desk.application.add(9, retry_count=10, last_error="HTTP 422")
    operations.run_pass.run_once(desk.settings)
    before = desk.application.dump()
    for route in routes(desk.settings):
        if "GET" in (route.methods or ()) and route.path != "/sign-in":  # a signed-in user is sent on
            path = PAGES + route.path.replace("{message_id}", "9").replace("{name}", "console.js")
            path += "?action=retry&id=9" if route.path == "/bulk" else ""
            assert desk.operator.get(path).status_code == 200, path
            assert desk.operator("HEAD", path).status_code == 200, path
    assert desk.application.dump() == before


@pytest.mark.parametrize("path", ["/", "/id/999", "/nowhere", "/sign-in", "/static/console.css", "/static/x", "/?x=1"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_every_response_has_the_security_headers(desk: Desk, method: str, path: str) -> None:
    for client in (desk.operator, desk.stranger):
        answer = client(method, PAGES + path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        is_asset = path == "/static/console.css" and method == "GET"
        assert answer.headers["cache-control"] == ("no-cache" if is_asset else "no-store")
        assert "Traceback" not in answer.text


def test_the_policy_allows_only_our_own_files() -> None:
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/id/17/nowhere", 404),
        ("GET", "/id/17/retry", 405),
        ("POST", "/", 405),
        ("DELETE", "/id/17", 405),
        ("GET", "/id/17%2F18", 404),
        ("GET", "/id/%ff", 404),
        ("GET", "/id/abc", 404),
        ("GET", "/id/99999999999999999999999999", 404),
        ("GET", "/id/017", 404),
        ("GET", "/%2e%2e/", 404),
    ],
)
def test_an_address_of_no_page_says_so_in_words(desk: Desk, method: str, path: str, status: int) -> None:
    answer = desk.operator(method, PAGES + path)
    assert answer.status_code == status
    assert "<h1>" in answer.text
    if status == 405:
        assert answer.headers["allow"]
    stranger = desk.client(None, **ORIGINS["our own page"][0])
    assert stranger(method, PAGES + path).status_code == (303 if method == "GET" else 401)


# -- signing in ---------------------------------------------------------------------------------------------------


def test_a_token_opens_a_session_and_signing_out_ends_it(desk: Desk) -> None:
    browser = desk.browser()
    page = browser.open("/id/5?text=whole")
    assert page.url == f"{PAGES}/sign-in?next=%2Fmessages%2Fid%2F5%3Ftext%3Dwhole"
    wrong = browser.submit(page, token="rcli_wrong")
    assert (wrong.status, "This token is not valid" in wrong.words) == (401, True)
    right = browser.submit(wrong, token=f" {desk.tokens['anna']} ")
    assert right.url == f"{PAGES}/id/5?text=whole"
    assert browser.open("/sign-in").url == f"{PAGES}/"
    assert "anna, operator" in browser.open("/").words
    out = browser.submit(browser.open("/"), "/sign-out")
    assert out.url == f"{PAGES}/sign-in"
    assert "You are signed out." in out.words
    assert browser.open("/").url.startswith(f"{PAGES}/sign-in")


def test_the_cookie_is_hidden_from_scripts_and_other_sites(desk: Desk) -> None:
    def cookie(address: str) -> str:
        answer = desk.client(**{"Sec-Fetch-Site": "same-origin"}).post(address, data={"token": desk.tokens["anna"]})
        assert answer.status_code == 303
        return answer.headers["set-cookie"].partition(";")[2]

    plain = cookie(f"{PAGES}/sign-in")
    assert plain == " HttpOnly; Max-Age=43200; Path=/; SameSite=lax"
    assert cookie(f"https://{HOST}{PAGES}/sign-in") == plain + "; Secure"


def test_a_removed_token_ends_the_session(desk: Desk) -> None:
    browser = desk.browser("anna")
    assert browser.open("/").status == 200
    operations.tokens.remove(desk.settings, "anna")
    assert browser.open("/").url.startswith(f"{PAGES}/sign-in")


def test_a_form_sent_after_the_session_ended_is_kept_and_can_be_sent_again(desk: Desk) -> None:
    desk.application.fill()
    browser = desk.browser("anna")
    page = browser.open("/id/5")
    operations.tokens.remove(desk.settings, "anna")
    refused = browser.submit(page, "/reject", reason="two\tlines <b>")
    assert refused.status == 401
    assert desk.application.row(5)["status"] == "failed"
    desk.tokens = {**desk.tokens, "anna": operations.tokens.add(desk.settings, "anna", Role.OPERATOR)}
    browser.submit(browser.open("/sign-in"), token=desk.tokens["anna"])
    done = browser.submit(refused, "/reject", press="Send it again")
    assert "Rejected message 5" in done.words
    assert desk.application.row(5)["last_error"] == "Rejected by anna: two\tlines <b>"


HOSTILE_PAGES = [
    "//evil.example", "///evil.example", r"/\evil.example", r"\\evil.example", "http://evil.example",
    "https:evil.example", "javascript:alert(1)", "/messages//evil.example", "/messages/../admin",
    "/messages/%2e%2e/admin", "/messages/.%2e/admin", "/messages/\r\nSet-Cookie: a=b", "/messages/\0", "/messages/ä",
    "/messagesevil", "/other", "evil.example", "@evil.example", "/messages@evil.example", "/messages\t/", " /messages/",
]  # fmt: skip


@pytest.mark.parametrize("wanted", HOSTILE_PAGES)
def test_signing_in_never_leads_to_another_site(desk: Desk, wanted: str) -> None:
    browser = desk.browser()
    assert browser.submit(browser.open("/sign-in"), token=desk.tokens["anna"], next=wanted).url == f"{PAGES}/"


@pytest.mark.parametrize("wanted", ["//evil.example", r"/\evil.example", "/../x", "/%2e%2e/x", "evil.example"])
def test_signing_in_never_leads_to_another_site_if_the_console_is_at_the_root(wanted: str) -> None:
    from starlette.requests import Request

    visit = Visit(Request({"type": "http", "root_path": "", "path": "/", "headers": [], "query_string": b""}))
    assert following_page(visit, wanted) == "/"
    assert following_page(visit, "/id/17?x=1") == "/id/17?x=1"


@pytest.mark.parametrize(
    "wanted", ["/messages/", "/messages/id/5", "/messages/id/a%2Fb?text=whole", "/messages/?x=//y"]
)
def test_signing_in_leads_to_the_page_that_was_wanted(desk: Desk, wanted: str) -> None:
    answer = desk.client(**{"Sec-Fetch-Site": "same-origin"}).post(
        f"{PAGES}/sign-in", data={"token": desk.tokens["anna"], "next": wanted}
    )
    assert answer.headers["location"] == wanted


def test_an_application_that_knows_its_users_has_no_page_to_sign_in(desk: Desk) -> None:
    from fastapi import FastAPI

    app = FastAPI()

    def who(request: object) -> User | None:
        name = getattr(request, "headers", {}).get("X-User")
        return None if name is None else User(name, Role.OPERATOR)

    app.mount("/desk/outgoing", web.pages(desk.settings, user=who))
    desk.__dict__["app"] = app
    stranger = desk.client().get("/desk/outgoing/")
    assert stranger.status_code == 401
    assert "<h1>Sign in first</h1>" in stranger.text
    assert "/sign-in" not in stranger.text
    assert "The application that contains these pages signs its users in." in stranger.text
    assert "token" not in stranger.text
    known = desk.client(**{"X-User": "max"})
    assert known.get("/desk/outgoing/").status_code == 200
    assert "Sign out" not in known.get("/desk/outgoing/").text
    assert known.get("/desk/outgoing/sign-in").status_code == 404


def test_a_user_of_the_proxy_without_a_token_is_told_who_creates_one(desk: Desk) -> None:
    web = desk.settings.web.model_copy(update={"user_header": "X-User", "uds": Path("/run/desk.sock")})
    desk.settings = desk.settings.model_copy(update={"web": web})
    unknown = desk.client(**{"X-User": "max"}).get(f"{PAGES}/")
    assert unknown.status_code == 401
    assert "names the user max, who has no token" in unknown.text
    assert "<code>retrycli serve token add NAME --role operator</code>" in unknown.text
    nobody = desk.client().get(f"{PAGES}/")
    assert (nobody.status_code, "names no user in the header X-User" in nobody.text) == (401, True)


def test_the_page_of_an_error_has_the_navigation_and_the_user_if_one_is_signed_in(desk: Desk) -> None:
    desk.application.fill()
    browser = desk.browser("vera")
    for page in (browser.open("/id/5/edit"), browser.open("/id/999"), browser.post("/id/8/retry")):
        assert page.status in {403, 404}
        assert "vera, viewer" in page.words
        assert page.has_form("/sign-out")
        assert f"{PAGES}/passes" in page.links
    assert "vera" not in desk.client("vera", Host="evil.example").get(f"{PAGES}/").text
    assert "viewer" not in desk.client().post(f"{PAGES}/id/8/retry").text
