"""Which requests are allowed: every endpoint × every user × what a browser says about the request's origin."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

import retrycli
from retrycli import operations, web
from retrycli.config.settings import WebSettings
from retrycli.domain.user import Right, Role, User
from retrycli.web import problems
from retrycli.web.access import Access
from retrycli.web.endpoints import route_class
from retrycli.web.http_api import make_api
from retrycli.web.status import RecentStatus
from tests.conftest import on_sqlite
from tests.web.conftest import API, HOST

if TYPE_CHECKING:
    from retrycli.config.settings import Settings
    from tests.web.conftest import Client, Desk

pytestmark = on_sqlite

ORIGINS: Mapping[str, tuple[Mapping[str, str], bool]] = {
    "our own page": ({"Sec-Fetch-Site": "same-origin"}, True),
    "an address that the user typed": ({"Sec-Fetch-Site": "none"}, True),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, False),
    "another host of the same site": ({"Sec-Fetch-Site": "same-site"}, False),
    "another site that claims our origin": ({"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"}, False),
    "an old browser on our own page": ({"Origin": f"http://{HOST}"}, True),
    "an old browser on another site": ({"Origin": "http://evil.example"}, False),
    "an old browser in a sandboxed frame": ({"Origin": "null"}, False),
    "a browser that says nothing": ({}, False),
}
"""What a browser may say about the page that sent a request, and whether the request may change something."""


def routes(settings: Settings) -> Iterator[APIRoute]:
    """Yield all routes of the API."""
    for route in make_api(settings, Access.of(settings, lambda _: None), RecentStatus(settings)).routes:
        assert isinstance(route, APIRoute)
        yield route


def requests(settings: Settings) -> Iterator[tuple[str, str, Right]]:
    """Yield the method, the path and the right of each endpoint. The paths name no existing message."""
    for route in routes(settings):
        for method in sorted(route.methods or ()):
            yield method, API + route.path.replace("{message_id}", "999"), getattr(route, "right")  # noqa: B009  ApiRoute


def session(desk: Desk, user: str) -> dict[str, str]:
    """Return the headers of a browser in which a user is signed in."""
    from retrycli.web.sessions import COOKIE
    from retrycli.web.sign_in import TokenUsers

    users = TokenUsers(desk.settings)
    [token] = (each for each in operations.tokens.load(desk.settings) if each.name == user)
    return {"Cookie": f"{COOKIE}={users.cookie(token)}"}


def is_denied(client: Client, method: str, path: str) -> int | None:
    """Make a request, and return the status if its access was denied."""
    answer = client(method, path)
    denied = answer.status_code in {401, 403, 421} and answer.json()["type"].endswith("access-denied")
    return answer.status_code if denied else None


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_site_learns_nothing_about_the_user(desk: Desk, origin: str) -> None:
    headers, is_own = ORIGINS[origin]
    client = desk.client(None, **headers)
    for method, path, _ in requests(desk.settings):
        assert is_denied(client, method, path) == (401 if method == "GET" or is_own else 403), f"{method} {path}"


def test_each_endpoint_needs_the_declared_right(desk: Desk) -> None:
    stranger = desk.client(None, **ORIGINS["our own page"][0])
    for method, path, right in requests(desk.settings):
        assert is_denied(stranger, method, path) == 401, path
        assert is_denied(desk.operator, method, path) is None, path
        expected = None if right in {Right.READ, Right.READ_TEXT} else 403
        assert is_denied(desk.viewer, method, path) == expected, path
        assert (method == "GET") == (expected is None), f"{method} {path} needs only the right to {right}"


def test_metrics_need_a_right_of_their_own(desk: Desk) -> None:
    """Prometheus can get metrics with a token that opens nothing else."""
    token = operations.tokens.add(desk.settings, "prometheus", Role.METRICS)
    prometheus = desk.client(None, Authorization=f"Bearer {token}")
    for client in (prometheus, desk.viewer, desk.operator):
        found = client.get("/metrics")
        assert found.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "retrycli_due_messages" in {each.name for each in text_string_to_metric_families(found.text)}
    assert is_denied(desk.stranger, "GET", "/metrics") == 401
    assert is_denied(desk.client("vera", Host="evil.example"), "GET", "/metrics") == 421
    for method, path, _ in requests(desk.settings):
        assert is_denied(prometheus, method, path) == 403, path
    assert "your role, metrics, may not do this" in prometheus.get(API).text


@pytest.mark.parametrize(
    ("user", "origin"), [*(("anna", each) for each in ORIGINS), ("vera", "our own page"), ("vera", "another site")]
)
def test_a_signed_in_browser_changes_something_only_from_our_own_page(desk: Desk, user: str, origin: str) -> None:
    headers, is_own = ORIGINS[origin]
    client = desk.client(None, **session(desk, user), **headers)
    for method, path, right in requests(desk.settings):
        may = Role.OPERATOR if user == "anna" else Role.VIEWER
        expected = None if right in may.rights and (method == "GET" or is_own) else 403
        assert is_denied(client, method, path) == expected, f"{method} {path}"


@pytest.mark.parametrize(
    "origin", ["another site", "an old browser in a sandboxed frame", "a browser that says nothing"]
)
def test_a_token_alone_is_enough_from_anywhere(desk: Desk, origin: str) -> None:
    client = desk.client("anna", **ORIGINS[origin][0])
    for method, path, _ in requests(desk.settings):
        assert is_denied(client, method, path) is None, f"{method} {path}"


def test_a_cookie_of_escapes_takes_no_longer_than_another(desk: Desk) -> None:
    """The standard parser takes quadratic time for one: seconds for a header of 64 kB, in which nobody is served."""
    from retrycli.web.sign_in import TokenUsers

    users = TokenUsers(desk.settings)
    took: dict[str, float] = {}
    for text in ("x", "\\") * 3:
        cookie = f'a="{text * 65_000}"'.encode()
        request = Request({"type": "http", "scheme": "http", "path": "/", "server": (HOST, 80), "headers": []})
        request.scope["headers"] = [(b"host", HOST.encode()), (b"cookie", cookie)]
        began = time.perf_counter()
        assert users.session(request) is None
        took[text] = min(took.get(text, 60.0), time.perf_counter() - began)
    assert took["\\"] < 100 * took["x"]


def test_an_unencrypted_page_of_this_host_changes_nothing_over_tls(desk: Desk) -> None:
    """An old browser sends no Fetch Metadata, and anybody between it and the server may have made the page."""
    for origin, status in ((f"http://{HOST}", 403), (f"https://{HOST}", 401)):
        answer = desk.client(None, Origin=origin)("POST", f"https://{HOST}{API}/scheduler/resume")
        assert answer.status_code == status


def test_a_token_beside_a_cookie_does_not_excuse_another_site(desk: Desk) -> None:
    client = desk.client("anna", **session(desk, "anna"), **{"Sec-Fetch-Site": "cross-site"})
    assert is_denied(client, "POST", f"{API}/scheduler/resume") == 403


UNKNOWN = (f"{HOST}.evil.example", f"evil.example:80@{HOST}", f"{HOST}:80@evil.example", "[::1].evil.example")


def test_an_unknown_host_is_refused_everywhere(desk: Desk) -> None:
    client = desk.client("anna", Host="evil.example")
    for method, path, _ in requests(desk.settings):
        assert is_denied(client, method, path) == 421, path
    assert "add it to web.allowed_hosts" in client.get(f"{API}/scheduler/status").json()["detail"]
    for host in (*UNKNOWN, "localhost:evil", "", "[::2]"):
        assert is_denied(desk.client("anna", Host=host), "GET", f"{API}/scheduler/status") == 421, host


def test_a_known_host_is_accepted_with_any_port_and_case(desk: Desk) -> None:
    for host in (HOST, HOST.upper(), f"{HOST}:8003", "localhost:8003", "127.0.0.1", "[::1]:8003"):
        assert desk.client("anna", Host=host).get(f"{API}/scheduler/status").status_code == 200, host


@pytest.mark.parametrize("field", ["host", "allowed_hosts"])
@pytest.mark.parametrize("address", ["fd00::5", "FD00:0:0::5"])
def test_an_ipv6_address_is_a_known_host_as_browsers_write_it(desk: Desk, field: str, address: str) -> None:
    web = WebSettings.model_validate({"tokens_file": desk.settings.web.tokens_file, field: address})
    listening = replace(desk, settings=desk.settings.model_copy(update={"web": web}))
    for host, status in (("[fd00::5]:8003", 200), ("[fd00::5]", 200), ("[fd00::6]", 421), ("fd00::5", 421)):
        found = listening.client("anna", Host=host).get(f"{API}/scheduler/status")
        assert found.status_code == status, host


def test_a_read_only_server_refuses_every_change(desk: Desk) -> None:
    desk.settings = desk.settings.model_copy(update={"web": desk.settings.web.model_copy(update={"read_only": True})})
    for method, path, right in requests(desk.settings):
        expected = None if right in {Right.READ, Right.READ_TEXT} else 403
        assert is_denied(desk.operator, method, path) == expected, path


def test_a_route_without_a_declared_right_can_not_be_added() -> None:
    router = APIRouter(route_class=route_class(Access(lambda _: None, frozenset())))
    with pytest.raises(TypeError, match="names the right that it needs"):
        router.add_api_route("/open", lambda: None)


def test_a_removed_token_ends_its_requests_and_its_sessions(desk: Desk) -> None:
    browser = desk.client(None, **session(desk, "anna"))
    assert browser.get(f"{API}/scheduler/status").status_code == 200
    operations.tokens.remove(desk.settings, "anna")
    assert browser.get(f"{API}/scheduler/status").status_code == 401
    assert desk.operator.get(f"{API}/scheduler/status").status_code == 401
    assert desk.viewer.get(f"{API}/scheduler/status").status_code == 200


def test_a_new_token_works_at_once_and_a_new_one_of_the_same_name_ends_old_sessions(desk: Desk) -> None:
    browser = desk.client(None, **session(desk, "anna"))
    assert browser.get(f"{API}/scheduler/status").status_code == 200
    operations.tokens.remove(desk.settings, "anna")
    desk.tokens = {**desk.tokens, "anna": operations.tokens.add(desk.settings, "anna", Role.VIEWER)}
    assert browser.get(f"{API}/scheduler/status").status_code == 401
    assert desk.client("anna").get(f"{API}/scheduler/status").status_code == 200
    assert is_denied(desk.client("anna"), "POST", f"{API}/scheduler/resume") == 403


def test_a_token_file_that_breaks_while_serving_lets_nobody_in(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert desk.operator.get(f"{API}/scheduler/status").status_code == 200
    file = tmp_path / "tokens.json"
    text = file.read_text()
    for broken in (
        "",
        "{}",
        "[]",
        '{"tokens": [{}]}',
        text.replace("operator", "owner"),
        text.replace("sha256", "sha"),
    ):
        file.write_text(broken)
        answer = desk.operator.get(f"{API}/scheduler/status")
        assert (answer.status_code, str(tmp_path) in answer.text) == (500, False), broken
        assert "is not valid" in caplog.messages[-1]
    file.write_text(text)
    file.chmod(0o640)
    assert desk.operator.get(f"{API}/scheduler/status").status_code == 500
    assert "other users may read" in caplog.messages[-1]
    file.unlink()
    assert desk.operator.get(f"{API}/scheduler/status").status_code == 500
    assert "does not exist" in caplog.messages[-1]


def test_an_application_decides_by_its_own_users(desk: Desk) -> None:
    from fastapi import FastAPI

    async def who(request: Any) -> User | None:  # noqa: ANN401  any request
        name = request.headers.get("X-User")
        return None if name is None else User(name, Role.OPERATOR)

    app = FastAPI()
    app.include_router(web.api(desk.settings, user=who), prefix="/tickets/outgoing")
    desk.__dict__["app"] = app
    assert desk.client().get("/tickets/outgoing/scheduler/status").status_code == 401
    by_max = desk.client(None, **{"X-User": "max", "Sec-Fetch-Site": "same-origin"})
    assert by_max.post("/tickets/outgoing/scheduler/pause", json={}).json()["paused"]["by"] == "max"
    assert is_denied(desk.client(None, **{"X-User": "max"}), "POST", "/tickets/outgoing/scheduler/resume") == 403
    document = by_max.get("/tickets/outgoing/openapi.json").json()
    assert document["servers"] == [{"url": "/"}]
    assert "/tickets/outgoing/scheduler/status" in document["paths"]


def test_every_endpoint_and_problem_is_in_the_manual(desk: Desk) -> None:
    page = (Path(retrycli.__file__).parent / "manual" / "http-api.md").read_text(encoding="utf-8")
    for _, path, _ in requests(desk.settings):
        end = path.removeprefix(API).replace("/999", "/ID")
        assert not end or f"{end}`" in page or f"`/{end.rpartition('/')[2]}`" in page, end
    for _, name in problems.STATUSES.values():
        assert f"`{name}`" in page or name in {"lock-held", "too-little-history"}, name


def test_each_schema_that_the_document_names_is_there(desk: Desk) -> None:
    document = desk.viewer.get(f"{API}/openapi.json").json()
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    assert desk.stranger.get("/openapi.json").status_code == 404, "it is not shown to everybody"
