"""Which pages may be opened: every page × every user × what a browser says about the request's origin."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from retrycli import operations, web
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.user import Right, Role, User
from retrycli.operations.tokens import LONGEST_FILE, MOST_ENDED, MOST_ENDED_OF_ALL, has_ended
from retrycli.web import sessions
from retrycli.web.access import Access
from retrycli.web.console.application import HEADERS, make_pages
from retrycli.web.console.context import NOTICE, Visit
from retrycli.web.console.routes import ANYBODY, Anybody, PageRoute, routes_of
from retrycli.web.console.signing_in import following_page
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus
from tests.conftest import on_sqlite
from tests.web.browser import HOST
from tests.web.conftest import API, PAGES
from tests.web.test_access import ORIGINS, session

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from retrycli.config.settings import Settings
    from tests.web.conftest import Client, Desk

pytestmark = on_sqlite

AT = datetime(2026, 3, 2, tzinfo=UTC)
OPEN = {("GET", "/static/{name}"), ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/sign-out")}
"""The pages that need no user."""


def routes(settings: Settings) -> Iterator[PageRoute]:
    """Yield all routes of the console."""
    users = TokenUsers(settings)
    for route in make_pages(settings, Access.of(settings, users), RecentStatus(settings), users).routes:
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
    app = make_pages(desk.settings, Access.of(desk.settings, users), RecentStatus(desk.settings), users)
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


@pytest.mark.parametrize(
    ("user", "origin"), [*(("anna", each) for each in ORIGINS), ("vera", "our own page"), ("vera", "another site")]
)
def test_a_form_is_only_taken_from_our_own_pages(desk: Desk, user: str, origin: str) -> None:
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


def test_an_unknown_host_is_refused_on_every_page(desk: Desk) -> None:
    client = desk.client("anna", Host="evil.example")
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


PATHS = ("/", "/id/999", "/nowhere", "/sign-in", "/static/console.css", "/static/x", "/?x=1")


def test_every_response_has_the_security_headers(desk: Desk) -> None:
    """The policy allows only our own files."""
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert (HEADERS["X-Content-Type-Options"], HEADERS["Referrer-Policy"]) == ("nosniff", "same-origin")
    for client, method, path in product((desk.operator, desk.stranger), ("GET", "POST", "OPTIONS"), PATHS):
        answer = client(method, PAGES + path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, (method, path)
        is_asset = path == "/static/console.css" and method == "GET"
        assert answer.headers["cache-control"] == ("no-cache" if is_asset else "no-store"), (method, path)
        assert "Traceback" not in answer.text


NO_PAGES = (
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
    ("GET", "%2Fx/stats", 404),
)


def test_an_address_of_no_page_says_so_in_words(desk: Desk) -> None:
    stranger = desk.client(None, **ORIGINS["our own page"][0])
    for method, path, status in NO_PAGES:
        answer = desk.operator(method, PAGES + path)
        assert (answer.status_code, "<h1>" in answer.text) == (status, True), path
        assert status != 405 or answer.headers["allow"]
        assert stranger(method, PAGES + path).status_code == (303 if method == "GET" else 401), path


def test_an_address_with_a_slash_too_many_is_not_redirected(desk: Desk) -> None:
    """Starlette would name the server's own host, behind which a proxy may be. Some servers give no encoded path."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        await desk.app({name: value for name, value in scope.items() if name != "raw_path"}, receive, send)

    for path in ("/livez/", f"{PAGES}/stats/"):
        assert replace(desk.operator, app=plain).get(path).status_code == 404


# -- signing in ---------------------------------------------------------------------------------------------------


def test_a_token_opens_a_session_and_signing_out_ends_it(desk: Desk) -> None:
    browser = desk.browser()
    page = browser.open("/id/5?text=whole")
    assert page.url == f"{PAGES}/sign-in?next=%2Fmessages%2Fid%2F5%3Ftext%3Dwhole"
    assert browser.open(f"/id/5?text={'&' * 5_000}").url == f"{PAGES}/sign-in"  # a proxy refuses longer headers
    wrong = browser.submit(page, token="rcli_wrong")
    assert (wrong.status, "This token is not valid" in wrong.words) == (401, True)
    right = browser.submit(wrong, token=f" {desk.tokens['anna']} ")
    assert right.url == f"{PAGES}/id/5?text=whole"
    assert browser.open("/sign-in").url == f"{PAGES}/"
    assert "anna, operator" in browser.open("/").words
    stolen, other = httpx.Cookies(browser.cookies), desk.browser("anna")
    out = browser.submit(browser.open("/"), "/sign-out")
    assert out.url == f"{PAGES}/sign-in"
    assert "You are signed out." in out.words
    assert browser.open("/").url.startswith(f"{PAGES}/sign-in")
    browser.cookies = stolen
    assert browser.open("/").url.startswith(f"{PAGES}/sign-in"), "the session has ended on the server"
    assert other.open("/").url == f"{PAGES}/", "another session of the same user goes on"


def test_signing_out_often_revives_no_session(desk: Desk) -> None:
    client = desk.client(**{"Sec-Fetch-Site": "same-origin"})

    def sign_in() -> str:
        answer = client.post(f"{PAGES}/sign-in", data={"token": desk.tokens["anna"]})
        return str(answer.headers["set-cookie"]).partition(";")[0]

    def opens(cookie: str) -> bool:
        return desk.client(Cookie=cookie).get(f"{API}/scheduler/status").status_code == 200

    key, [anna, _] = operations.tokens.signing_key(desk.settings), operations.tokens.load(desk.settings)
    stolen = f"{sessions.COOKIE}={sessions.sign(anna, key, datetime.now(UTC) - timedelta(hours=1))}"
    others = desk.browser("vera")
    assert opens(stolen)
    for cookie in (stolen, *(sign_in() for _ in range(MOST_ENDED + 1))):
        client.post(f"{PAGES}/sign-out", headers={"Cookie": cookie})
        assert not opens(stolen)
    assert others.open("/").url == f"{PAGES}/", "sessions of other users go on"


def test_of_two_sessions_none_counts(desk: Desk) -> None:
    """A host beside this one may have added its own cookie, so that the user works under another name."""
    key, [anna, vera] = operations.tokens.signing_key(desk.settings), operations.tokens.load(desk.settings)
    one, other = (f"{sessions.COOKIE}={sessions.sign(user, key, datetime.now(UTC))}" for user in (anna, vera))
    for cookie, status in ((one, 200), (f"{one}; {other}", 401), (f"{other}; {one}", 401)):
        assert desk.client(Cookie=cookie).get(f"{API}/scheduler/status").status_code == status


def test_the_end_of_a_session_is_remembered_no_longer_than_it_would_have_lasted(desk: Desk) -> None:
    tokens = desk.settings.web.tokens_file
    assert tokens is not None
    file = operations.tokens.ended_sessions_file(tokens)
    for each, hours in (("one", 12), ("two", 18)):
        end = int((AT + timedelta(hours=hours)).timestamp())
        operations.tokens.end_session(desk.settings, each, "anna", end, now=AT)
        assert each in operations.tokens.ended_sessions(desk.settings)
    operations.tokens.end_session(desk.settings, "three", "vera", 2**31, now=AT + timedelta(hours=13))
    assert operations.tokens.ended_sessions(desk.settings).keys() == {"two", "three"}
    for number in range(101):
        operations.tokens.end_session(desk.settings, str(number), "anna", 2**31 + number, now=AT)
    ended = operations.tokens.ended_sessions(desk.settings)
    kept = {*map(str, range(1, 101)), "three", ended["1"][0]}
    assert ended.keys() == kept, "nobody can fill the file"
    assert [has_ended(ended, "any", "anna", 2**31 + number) for number in (-1, 0, 1)] == [True, True, False]
    assert not has_ended(ended, "any", "vera", 2**31)
    many = {f"session {number}": ["0" * 16, 2**32 + number] for number in range(MOST_ENDED_OF_ALL)}
    file.write_text(json.dumps(many))
    operations.tokens.end_session(desk.settings, "newest", "é" * 250, 2**33, now=AT)
    ended = operations.tokens.ended_sessions(desk.settings)
    assert ended.keys() == {*many.keys(), "newest", "0" * 16} - {"session 0"}, "long names of many users fill no more"
    assert file.stat().st_size < LONGEST_FILE / 2
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("{")
    with pytest.raises(ConfigurationError, match=r"signed-out is not valid. Delete it and .*\.key, and restart"):
        operations.tokens.ended_sessions(desk.settings)


@pytest.mark.parametrize(
    ("root", "address", "name", "more"),
    [
        ("", f"http://{HOST}", "retrycli_session", "Path=/; SameSite=lax"),
        ("", f"https://{HOST}", "__Host-retrycli_session", "Path=/; SameSite=lax; Secure"),
        ("/desk", f"https://{HOST}/desk", "__Secure-retrycli_session", "Path=/desk; SameSite=lax; Secure"),
    ],
)
def test_the_cookie_is_hidden_from_scripts_and_other_sites(
    desk: Desk, root: str, address: str, name: str, more: str
) -> None:
    desk.settings = desk.settings.model_copy(update={"web": desk.settings.web.model_copy(update={"root_path": root})})
    client = desk.client(**{"Sec-Fetch-Site": "same-origin"})
    answer = client.post(f"{address}{PAGES}/sign-in", data={"token": desk.tokens["anna"]})
    set_cookie = answer.headers["set-cookie"]
    cookie, _, attributes = set_cookie.partition("; ")
    assert (answer.status_code, cookie.partition("=")[0]) == (303, name)
    assert attributes == f"HttpOnly; Max-Age=43200; {more}"
    plain = f"retrycli_session={cookie.partition('=')[2]}"
    for cookies, signed_in in ((cookie, True), (plain, plain == cookie)):
        page = desk.client(Cookie=cookies).get(f"{address}{PAGES}/")
        assert (page.status_code == 200) == signed_in
    among = f'a="\\042"; b; {cookie}; later={name}'
    assert desk.client(Cookie=among).get(f"{address}{PAGES}/").status_code == 200
    viewer = client.post(f"{address}{PAGES}/sign-in", data={"token": desk.tokens["vera"]}).headers["set-cookie"]
    theirs = str(viewer).partition(";")[0].partition("=")[2]
    for hidden in ("\xa0", "\x85"):  # another host of the domain can set these: browsers see no prefix `__Host-`
        tossed = f"{hidden}{name}={theirs}; {cookie}".encode("latin-1")
        page = desk.client().get(f"{address}{PAGES}/", headers={"Cookie": tossed})
        assert (page.status_code, "anna" in page.text, "vera" in page.text) == (200, True, False)
    out = desk.client(**{"Sec-Fetch-Site": "same-origin", "Cookie": cookie}).post(f"{address}{PAGES}/sign-out")
    assert any(each.startswith(f'{name}=""; ') and more in each for each in out.headers.get_list("set-cookie"))


def test_sign_ins_and_refusals_are_logged_with_the_address_and_at_most_ten_a_minute(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "retrycli")
    time = iter([*[AT] * 14, AT + timedelta(minutes=1)])
    users = TokenUsers(desk.settings, now=lambda: next(time))
    request = Request({"type": "http", "client": ("192.0.2.7", 5), "headers": []})
    assert users.sign_in(request, desk.tokens["anna"]) is not None
    for _ in range(14):
        assert users.sign_in(request, "rcli_wrong") is None
    refused = "Refused an invalid token, from 192.0.2.7"
    signed_in = "Signed in anna, operator, from 192.0.2.7"
    more = "3 more sign-ins and refusals in that minute"
    assert caplog.messages == [signed_in, *[refused] * 10, more, refused]
    assert desk.client(Authorization="Bearer rcli_wrong").get(f"{API}/scheduler/status").status_code == 401
    assert caplog.messages[-1] == refused.replace("192.0.2.7", "127.0.0.1")


DEEP = base64.urlsafe_b64encode(b"[" * 2_000).decode()


@pytest.mark.parametrize("forged", [DEEP, f"{DEEP}.{'0' * 64}", f"{DEEP.rstrip('=')}.", "", ".", '"'])
def test_a_notice_of_another_origin_is_not_shown(desk: Desk, forged: str) -> None:
    """Any page of a neighbouring host name can set the cookie. A deep text once gave an error on every page."""
    client = desk.client(Cookie=f"{NOTICE}={forged}; {session(desk, 'anna')['Cookie']}")
    for path, status in (("/", 200), ("/id/999", 404)):
        page = client.get(PAGES + path)
        assert (page.status_code, 'class="notice"' in page.text) == (status, False)


def test_a_notice_is_shown_once_and_only_to_its_user(desk: Desk) -> None:
    anna, vera = (session(desk, user)["Cookie"] for user in ("anna", "vera"))
    paused = desk.client(**{"Sec-Fetch-Site": "same-origin", "Cookie": anna}).post(f"{PAGES}/pause", data={"for": "1h"})
    notice = paused.headers["set-cookie"].partition(";")[0]
    for cookie, path, shown in ((vera, "passes", False), (anna, "stats", False), (anna, "passes", True)):
        page = desk.client(Cookie=f"{cookie}; {notice}").get(f"{PAGES}/{path}")
        assert ("Passes still run and are recorded" in page.text) == shown
        assert (f'{NOTICE}=""' in page.headers.get("set-cookie", "")) == shown


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


def test_who_is_not_signed_in_may_send_four_kibibytes(desk: Desk) -> None:
    """The page that asks to sign in shows the form again, to be sent by one click, but only a small one."""
    desk.application.fill()
    stranger = desk.client(**{"Sec-Fetch-Site": "same-origin"})
    signed_in = desk.client(**{"Sec-Fetch-Site": "same-origin"}, **session(desk, "anna"))
    for size, kept in ((3_000, True), (5_000, False)):
        text = "x" * size
        assert stranger.post(f"{PAGES}/sign-in", data={"token": text}).status_code == (401 if kept else 413)
        refused = stranger.post(f"{PAGES}/id/5/reject", data={"reason": text})
        assert (refused.status_code, text in refused.text, "Send it again" in refused.text) == (401, kept, kept)
        assert ("copy what you entered" in refused.text) == (not kept)
        form = {"subject": text, "body": text, "recipient": "", "digest": ""}
        assert signed_in.post(f"{PAGES}/id/5/edit", data=form).status_code != 413


HOSTILE_PAGES = [
    "//evil.example", "///evil.example", r"/\evil.example", r"\\evil.example", "http://evil.example",
    "https:evil.example", "javascript:alert(1)", "/messages//evil.example", "/messages/../admin",
    "/messages/%2e%2e/admin", "/messages/.%2e/admin", "/messages/\r\nSet-Cookie: a=b", "/messages/\0", "/messages/ä",
    "/messagesevil", "/other", "evil.example", "@evil.example", "/messages@evil.example", "/messages\t/", " /messages/",
]  # fmt: skip


def test_signing_in_never_leads_to_another_site(desk: Desk) -> None:
    for wanted in HOSTILE_PAGES:
        browser = desk.browser()
        page = browser.submit(browser.open("/sign-in"), token=desk.tokens["anna"], next=wanted)
        assert page.url == f"{PAGES}/", wanted


@pytest.mark.parametrize("wanted", ["//evil.example", r"/\evil.example", "/../x", "/%2e%2e/x", "evil.example"])
def test_signing_in_never_leads_to_another_site_if_the_console_is_at_the_root(wanted: str) -> None:
    visit = Visit(Request({"type": "http", "root_path": "", "path": "/", "headers": [], "query_string": b""}))
    assert following_page(visit, wanted) == "/"
    assert following_page(visit, "/id/17?x=1") == "/id/17?x=1"


def test_signing_in_leads_to_the_page_that_was_wanted(desk: Desk) -> None:
    for wanted in ("/messages/", "/messages/id/a%2Fb?text=whole", "/messages/?x=//y"):
        form = {"token": desk.tokens["anna"], "next": wanted}
        answer = desk.client(**{"Sec-Fetch-Site": "same-origin"}).post(f"{PAGES}/sign-in", data=form)
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
