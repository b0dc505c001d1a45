"""What each endpoint and each page shows over the recorded queue, compared with the files in ``tests/golden``.

A file begins with its route. Each line with ``==`` is a step, followed by its result; ``{9}`` is the id of message 9.
What a step with ``refused`` asks for must change nothing. To add a step or a file, write such lines and run
``pytest tests/web/test_golden.py --record``.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack
from difflib import unified_diff
from http import HTTPStatus
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from retrycli import operations
from retrycli.domain.user import Role
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus
from tests.cli.application import Application
from tests.conftest import on_sqlite
from tests.recorded import GOLDEN, Scene, Scenes, check, readable
from tests.web.browser import Browser
from tests.web.conftest import API, HOST, PAGES, Client, Desk
from tests.web.openapi_lines import openapi_lines
from tests.web.test_access import routes as endpoint_routes
from tests.web.test_pages_access import routes as page_routes
from tests.web.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.web.browser import HtmlPage

pytestmark = on_sqlite

LEFT_OUT = {"GET /static/{name}", "GET /openapi.json"}
"""Routes without a file: files have no words, and the document has its own test."""
LONGEST_RUN, LONGEST_FAULT = 3, 15
MAPPED, FRAME = " of the mapped table", " with its frame"
REFUSED, OTHERS = "refused: ", "others"
OTHERS_ASK: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("vera", "9", {}),
    ("stranger", "9", {}),
    ("anna", "9", {"colour": "red"}),
    ("anna", "999", {}),
)
"""Who asks each route for what it does not give: the user, the id in the path, and the fields."""
CLOCK = re.compile(
    r"\b(\d\d? [A-Z][a-z]{2} |\d{4}-\d\d-\d\d )?\d\d:\d\d\b(?!:\d)|(?<=began )\d minutes ago|\b[\d,]+ ms\b"
)
SEEN = re.compile(r"\bseen=[0-9a-f]{16}\b")
DAY = re.compile(r"^[A-Z][a-z]{2} \d{1,2} \|$", re.MULTILINE)
CALL = re.compile(r"([A-Z]+) (/?[^ ]*)(?: (\{.*\}))?(?: (\S+))?")


class Stage:
    """One scene, and the application that serves it to the operator Anna, to the viewer Vera, and to strangers."""

    def __init__(self, scene: Scene) -> None:
        web = scene.settings.web.model_copy(update={"allowed_hosts": (HOST,)})
        settings = scene.settings.model_copy(update={"web": web})
        roles = {"anna": Role.OPERATOR, "vera": Role.VIEWER}
        tokens = {name: operations.tokens.add(settings, name, role) for name, role in roles.items()}
        self.scene = scene
        self.desk = Desk(Application(settings.database.url, tables=None), settings, tokens)
        self.before = self.desk.application.dump()
        users = TokenUsers(settings)
        console = make_pages(settings, Access.of(settings, users), RecentStatus(settings), users)
        self._pages = Starlette(routes=[Mount(PAGES, console)])  # made in a tenth of the time of the whole application

    def client(self, user: str, **headers: str) -> Client:
        return self.desk.client(None if user == "stranger" else user, **headers)

    def browser(self, user: str) -> Browser:
        browser = Browser(self._pages, PAGES)
        if user != "stranger":
            browser.headers["Authorization"] = f"Bearer {self.desk.tokens[user]}"
        return browser

    def visit(self, step: str) -> list[HtmlPage]:
        """Do what a step of a page says, and return the pages."""
        user, _, parts = self.with_ids(step).partition(" ")
        browser = self.browser(user)
        seen: list[HtmlPage] = []
        for part in parts.replace("ANNA", self.desk.tokens["anna"]).split("; "):
            verb, address, *fields = shlex.split(part)
            values = dict(each.split("=", 1) for each in fields)
            match verb:
                case "opens":
                    seen.append(browser.open(address))
                case "sends":
                    seen.append(browser.submit(seen[-1], address, **values))
                case _:
                    seen.append(browser.post(address, **values))
        return seen

    def call(self, step: str) -> httpx.Response:
        """Make the request that a step of an endpoint says."""
        found = CALL.fullmatch(self.with_ids(step))
        assert found is not None, step
        method, path, body, tag = found.groups()
        headers = {"If-Match": tag} if tag else {}
        content = {} if body is None else {"content": body, "headers": {"Content-Type": "application/json"}}
        return self.client("anna", **headers)(method, API + path, **content)

    def with_ids(self, text: str) -> str:
        return re.sub(r"\{(\d+)\}", lambda at: self.scene.id_of(int(at[1])), text)

    def plain(self, text: str) -> list[str]:
        """Return the lines of a text without what depends on the time or the machine."""
        lines = DAY.sub("<day> |", CLOCK.sub("<time>", SEEN.sub("seen", self.scene.plain(text)))).splitlines()
        return [line for number, line in enumerate(lines) if line != "<day> |" or line not in lines[:number]]

    def framed(self, page: HtmlPage) -> list[str]:
        """Return the visible text of a page."""
        return self.plain("\n".join(visible(page.answer.text, PAGES)))

    def shown(self, page: HtmlPage) -> list[str]:
        """Return the status, the address and the visible text of a page, without what all pages have."""
        html = re.sub(r"(?s)<body.*?(<main.*</main>).*", r"\1", page.answer.text)
        return self.plain("\n".join([f"{page.status} {page.url.removeprefix(PAGES)}", *visible(html, PAGES)]))


class Stages:
    """The stages of one test. What changes nothing happens on the same stage."""

    def __init__(self, scenes: Scenes, until_the_end: ExitStack) -> None:
        self._scenes, self._until_the_end = scenes, until_the_end
        self._unchanged: dict[bool, Stage] = {}

    def new(self, step: str) -> Stage:
        return Stage(self._until_the_end.enter_context(self._scenes.open(is_mapped=MAPPED in step)))

    def unchanged(self, step: str = "") -> Stage:
        if (MAPPED in step) not in self._unchanged:
            self._unchanged[MAPPED in step] = self.new(step)
        return self._unchanged[MAPPED in step]

    def of(self, route: str, step: str) -> Stage:
        changes_nothing = route.startswith("GET ") or step.startswith(REFUSED)
        return self.unchanged(step) if changes_nothing else self.new(step)

    def check_unchanged(self) -> None:
        """Check that nothing was written. In the mapped table, a read gives numbers to new messages."""
        if (stage := self._unchanged.get(False)) is not None:
            assert stage.desk.application.dump() == stage.before


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    with Scenes() as scenes, scenes.open() as scene, pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "TZ"):  # the status reads the crontab, and the pages name the zone
            patch.setenv(name, scene.cli.env[name])
        time.tzset()
        yield scenes
    time.tzset()


@pytest.fixture
def stages(scenes: Scenes) -> Iterator[Stages]:
    with ExitStack() as until_the_end:
        stages = Stages(scenes, until_the_end)
        yield stages
        stages.check_unchanged()


def read(file: Path) -> tuple[str, list[str]]:
    """Return the route and the steps of a file."""
    route, *lines = file.read_text(encoding="utf-8").splitlines()
    return route, [line.removeprefix("== ") for line in lines if line.startswith("== ") and line != f"== {OTHERS}"]


def told(route: str, texts: dict[str, list[str]]) -> str:
    """Return the text of a file. What a viewer or the mapped table differs in is shown as a difference."""
    parts = [route, ""]
    for step, lines in texts.items():
        other = step.replace("vera", "anna").removesuffix(MAPPED).removesuffix(FRAME)
        is_alone = other == step or other not in texts
        shown = lines if is_alone else difference(texts[other], lines)
        parts += [f"== {step}", *shown, *([""] if len(shown) > 1 else [])]
    return "\n".join(parts) + "\n"


def difference(before: list[str], after: list[str]) -> list[str]:
    """Return the lines that only one of two texts has. Many removed lines are named by the first and the last."""
    found = [line for line in [*unified_diff(before, after, n=0, lineterm="")][2:] if not line.startswith("@@")]
    shown = []
    for is_removed, run in ((is_removed, [*run]) for is_removed, run in groupby(found, lambda line: line[0] == "-")):
        is_long = is_removed and len(run) > LONGEST_RUN
        shown += [run[0], f"-… {len(run) - 2} lines", run[-1]] if is_long else run
    return shown


def asked_by_others(path: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    for user, number, fields in OTHERS_ASK:
        if number == "9" or "{message_id}" in path:
            yield user, path.replace("{message_id}", number), fields


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("pages/*")), ids=lambda file: file.stem)
def test_a_page_shows_what_is_recorded(pytestconfig: pytest.Config, stages: Stages, file: Path) -> None:
    route, steps = read(file)
    texts = {}
    for step in steps:
        stage = stages.of(route, step)
        *earlier, page = stage.visit(step.removeprefix(REFUSED).removesuffix(MAPPED).removesuffix(FRAME))
        texts[step] = stage.framed(page) if step.endswith(FRAME) else stage.shown(page)
        is_action = route.startswith("POST ")
        if is_action and (page.status == HTTPStatus.OK or (earlier and earlier[-1].url == page.url)):
            texts[step] = [texts[step][0], *difference(without(stages.unchanged(step), step, page), stage.framed(page))]
        elif page.status >= HTTPStatus.BAD_REQUEST and len(texts[step]) < LONGEST_FAULT:
            texts[step] = [in_one_line(texts[step])]
    texts[OTHERS] = [*refused_pages(stages.unchanged(), route)]
    check(pytestconfig, f"pages/{file.stem}", told(route, texts))


def without(unchanged: Stage, step: str, page: HtmlPage) -> list[str]:
    """Return what the page that an action leads to shows if nothing was done."""
    user = "anna" if "ANNA" in step and "sign-out" not in step else step.partition(" ")[0]
    return unchanged.framed(unchanged.browser(user).open(page.url.removeprefix(PAGES)))


def in_one_line(lines: list[str]) -> str:
    """Return the page of an error in one line, without its title."""
    return " / ".join([lines[0], *lines[2:]])


def refused_pages(stage: Stage, route: str) -> Iterator[str]:
    method, _, path = route.partition(" ")
    for user, address, fields in asked_by_others(path):
        browser = stage.browser(user)
        query = f"?{urlencode(fields)}" if fields else ""
        page = browser.open(address + query) if method == "GET" else browser.post(address, **fields)
        lines = stage.shown(page)
        yield f"{user} {address} {fields or ''}: {lines[0] if page.status == HTTPStatus.OK else in_one_line(lines)}"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("endpoints/*")), ids=lambda file: file.stem)
def test_an_endpoint_answers_what_is_recorded(pytestconfig: pytest.Config, stages: Stages, file: Path) -> None:
    route, steps = read(file)
    texts = {}
    for step in steps:
        call, _, command = step.partition(" = ")
        stage = stages.of(route, step)
        answer = stage.call(call.removeprefix(REFUSED).removesuffix(MAPPED))
        texts[step] = stage.plain(in_words(answer))
        if command:
            body, other = answer.json(), stages.of(route, step)
            printed = json.loads(other.scene.cli(*shlex.split(other.with_ids(command)), "--json").stdout)
            both = [{name: each.get(name) for name in printed} for each in (printed, body)]
            assert len({"\n".join(stage.plain(readable(json.dumps(each)))) for each in both}) == 1, both
            more = {name: value for name, value in body.items() if name not in printed}
            texts[step] = [texts[step][0], f"as `retrycli {command} --json`", *([f"and {more}"] if more else [])]
    texts[OTHERS] = [*refused_calls(stages.unchanged(), route)]
    check(pytestconfig, f"endpoints/{file.stem}", told(route, texts))


def in_words(answer: httpx.Response) -> str:
    """Return the status and the body of an answer; a problem without its title, which depends on Python's version."""
    body = answer.json()
    if answer.status_code == HTTPStatus.OK:
        return "\n".join([f"200 {answer.headers.get('ETag', '')}", readable(answer.text)])
    del body["title"]
    kind = body.pop("type").removeprefix("urn:retrycli:problem:")
    return f"{body.pop('status')} {kind}: {body.pop('detail')} {body or ''}"


def refused_calls(stage: Stage, route: str) -> Iterator[str]:
    method, _, path = route.partition(" ")
    for user, address, fields in asked_by_others(path):
        request: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        first, *_ = stage.plain(in_words(stage.client(user)(method, API + address, **request)))
        yield f"{user} {address} {fields or ''}: {first}"


def test_the_openapi_document_is_as_recorded(pytestconfig: pytest.Config, stages: Stages) -> None:
    document = stages.unchanged().client("vera").get(f"{API}/openapi.json").json()
    check(pytestconfig, "openapi", "".join(f"{line}\n" for line in openapi_lines(document)))


def test_the_server_answers_as_recorded(pytestconfig: pytest.Config, stages: Stages) -> None:
    gets = [
        ("GET", path) for path in ("/livez", "/readyz", "/metrics", "/", PAGES, "/nowhere", f"{API}/scheduler/pause")
    ]
    lines = []
    for method, path in [*gets, ("DELETE", f"{API}/scheduler/status")]:
        answer = stages.unchanged().client("stranger")(method, path)
        lines.append(f"{method} {path}: {answer.status_code} {answer.headers.get('location', answer.text).strip()}\n")
    check(pytestconfig, "server", "".join(lines))


def test_each_route_has_a_file_and_each_file_a_route(stages: Stages) -> None:
    settings = stages.unchanged().desk.settings
    for folder, routes in (("pages", page_routes(settings)), ("endpoints", endpoint_routes(settings))):
        found = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
        assert {read(file)[0] for file in GOLDEN.glob(f"{folder}/*")} == found - LEFT_OUT
