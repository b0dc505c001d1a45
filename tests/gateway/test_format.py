"""The parts of a preset's format: filters, paths, conditions, forms, look-ups, preflights, uploads."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, may_have_arrived
from retrycli.gateway.attachments import Attachment
from retrycli.gateway.http.request import Content, FilePart, file_content, json_content, multipart_content
from retrycli.gateway.http.response import Answer, holds
from retrycli.gateway.presets.json_path import check_path, find
from retrycli.gateway.presets.loader import line_of
from retrycli.gateway.presets.model import Condition
from retrycli.gateway.presets.template import fill, fill_path, fill_text, plain_text
from tests.cpu import cpu_seconds
from tests.gateway.deliveries import KEY, NOON, deliver, gateway_settings, preset_file, queued
from tests.gateway.hostile import Behaviour, Hostile, answer, at_the_limit, close, silence
from tests.unit.test_fuzz import law


@pytest.mark.parametrize(
    ("template", "value", "filled"),
    [
        ("{x|default:nobody}", None, "nobody"),
        ("{x|default:a:b}", "", "a:b"),
        ("{x|default:nobody}", "anna", "anna"),
        ("to {x|join:; }.", ["a", "b"], "to a; b."),
        ("{x|join:,}", [], ""),
        ("{x|join:,}", "one", "one"),
        ("{x|html}", '<b> & "it\'s"\nsecond\r\nthird', '&lt;b&gt; &amp; "it\'s"<br>\nsecond<br>\nthird'),
        ("{x|raw}", "<b>", "<b>"),
        ("{x|base64}", "Grüße", "R3LDvMOfZQ=="),
        ("{x|int}", "42", 42),
        ("{x|int}", 42, 42),
        ("{x|default:x|base64}", None, "eA=="),
        ("{{{x}}}", "in braces", "{in braces}"),
    ],
)
def test_a_placeholder_applies_its_filters(template: str, value: object, filled: object) -> None:
    assert fill_text(template, {"x": value}) == filled


@pytest.mark.parametrize("value", ["", None, "1/2", "1e3", "٣", "12345678901234567890", "1 "])
def test_a_value_that_is_not_an_integer_becomes_null(value: object) -> None:
    with pytest.raises(InvalidMessage, match="requires an integer of at most 18 digits"):
        fill_text("{x|int}", {"x": value})


def test_an_optional_empty_value_is_omitted_everywhere() -> None:
    body = {
        "cc": "{cc|optional}",
        "to": ["{to|optional}", "{cc|optional}"],
        "text": "so{cc|optional}",
        "in": {"x": "{cc|optional}"},
    }
    assert fill(body, {"cc": [], "to": "anna"}) == {"to": ["anna"], "text": "so", "in": {}}
    assert fill_path("/x", {"cc": None, "to": "ü&"}, {"cc": "{cc|optional}", "to": "{to}"}) == "/x?to=%C3%BC%26"


def test_a_list_of_tables_has_one_table_per_entry() -> None:
    body = {
        "ccs": {"for_each": "cc", "give": {"mail": "{each}", "of": "{ticket}"}},
        "none": {"for_each": "bcc", "give": "{each}"},
    }
    filled = fill(body, {"cc": ["a", "b"], "ticket": 7, "bcc": None})
    assert filled == {"ccs": [{"mail": "a", "of": 7}, {"mail": "b", "of": 7}], "none": []}


@pytest.mark.parametrize("empty", [None, []])
def test_an_optional_empty_list_omits_its_key(empty: object) -> None:
    files = {"for_each": "files", "give": {"name": "{each}"}, "optional": True}
    body = {"files": files, "within": {"files": files}, "listed": [files, 1]}
    assert fill(body, {"files": empty}) == {"within": {}, "listed": [1]}
    given = [{"name": "a"}]
    assert fill(body, {"files": ["a"]}) == {"files": given, "within": {"files": given}, "listed": [given, 1]}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello,</p><p>two&nbsp;lines<br>and &lt;more&gt;</p>", "Hello,\n\ntwo lines\nand <more>"),
        ("<style>p {}</style><script>alert(1)</script>seen", "seen"),
        ("a\n  b <i>c</i>", "a b c"),
        ("<ul><li>one<li>two</ul>", "one\ntwo"),
        ("</style>still < here & there &unknown;", "still < here & there &unknown;"),
        ("", ""),
        *[
            (f"a<{name}>b</{name}>c", "a\nb\nc")
            for name in ("div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "table", "tr", "ul", "ol", "blockquote")
        ],
        ("a<br>b<br/>c", "a\nb\nc"),
        *[(f"a<{name}>b</{name}>c", "ac") for name in ("head", "script", "style", "title")],
        ("<p>Press <![ to go on</p>", "Press"),
        ("<p>Press <![ to go on", "Press <![ to go on"),
        ("<![if !supportLists]>1.<![endif]> one", "1. one"),
        ("a <!-- b --> c <!-- d", "a c <!-- d"),
        ("1 <a 2", "1 <a 2"),
        ('<a title="a > b" href=x>c</a> it\'s', "c it's"),
        ("<p title=it's>Max doesn't</p>", "Max doesn't"),
        ("<script>x = \"<a href='\";</script>Max doesn't<br>agree", "Max doesn't\nagree"),
        ("<SCRIPT>1</Script><!-- <a href=' -->Max doesn't<br>agree", "Max doesn't\nagree"),
        ("<style>p {}</style\n><script>1</SCRIPT >seen", "seen"),
        (f'<img src="data:{"A" * 90_000}" alt="1 > 0">seen', "seen"),
        (f"&#{'9' * 5000}; &#65;", f"&#{'9' * 5000}; A"),
    ],
)
def test_html_becomes_the_text_that_a_reader_sees(html: str, text: str) -> None:
    assert plain_text(html) == text
    assert fill_text("{x|text}", {"x": html}) == text


PIECES = ["<", ">", "<!", "<![", "<!--", "-->", "</", "<?", "&#", "a", "script", "[", "]", "=", '"', "'", " ", "/", "9"]


@law(pieces=st.lists(st.sampled_from(PIECES), max_size=20))
def test_any_html_becomes_plain_text(pieces: list[str]) -> None:
    plain_text("".join(pieces))


REPEATED = ["<a ", "</", "<!--", "<!--x>", "<![", "<!", "<?", "<script>", "<style>", "&#9"]
REPEATED += ["<a b='", "'<a b='<textarea>", '="<a "']  # quotation marks that are not closed


@pytest.mark.parametrize("end", ["", ">", "'>", '>"', "</script>", "</script "])
@pytest.mark.parametrize("piece", REPEATED)
def test_no_html_takes_long_to_convert(piece: str, end: str) -> None:
    """The time must grow about linearly: eight times the text takes at most 24 times as long."""
    some, much = (cpu_seconds(partial(plain_text, piece * times + end)) for times in (2000, 16_000))
    assert much < 24 * max(some, 1e-3)


@pytest.mark.parametrize("condition", [{"path": "kind", "contains": "x"}, {"path": "all.[kind=x]"}])
def test_an_answer_nested_too_deeply_to_compare_is_unreadable(condition: dict[str, str]) -> None:
    """The answer came after the message was sent, and must not be treated as an internal error."""
    deep = "[" * 600 + "]" * 600
    answered = Answer(200, None, f'{{"kind": {deep}, "all": [{{"kind": {deep}}}]}}', whole=True)
    with pytest.raises(ValueError, match="nested too deeply"):
        holds(Condition(**condition), answered, {})


TREE = {
    "a": {"b": [{"id": 1, "of": {"n": "x"}}, {"id": 2, "of": {"n": "xy"}, "on": True}]},
    "count": 0,
    "none": None,
    "": {"": 1},
    "c": [{"id": 1, "of": [{"n": "x"}, {"n": "y"}]}, {"id": 2}],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b.0.id", [1]),
        ("a.b.*.id", [1, 2]),
        ("a.b.[id=2].on", [True]),
        ("a.b.[of.n=x].id", [1]),
        ("a.b.[of.n*=x].id", [1, 2]),
        ("a.b.[of.n={key}].id", [2]),
        ("a.b.[id!=1].id", [2]),
        ("a.b.[of.n!={key}].id", [1]),
        ("a.b.[missing!=x].id", [1, 2]),
        ("c.[of.*.n=y].id", [1]),
        ("c.[of.*.n*=y].id", [1]),
        ("c.[of.*.n!=y].id", [2]),
        ("a.b.9.id", []),
        ("a.b.id", []),
        ("a.c", []),
        ("count", [0]),
        ("none", [None]),
        ("none.x", []),
    ],
)
def test_a_path_selects_all_matching_values(path: str, found: list[object]) -> None:
    assert find(TREE, path, {"key": "xy"}) == found


@pytest.mark.parametrize("path", ["", ".", "a.", "a..b", ".a", "a.[b]", "a.[b=c", "a]", "[=x]", "[a.=x]", "[a!x]"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a valid path"):
        check_path(path)


def said(content: object, *, whole: bool = True) -> Answer:
    return Answer(200, None, content if isinstance(content, str) else json.dumps(content), whole)


@pytest.mark.parametrize(
    ("condition", "is_so"),
    [
        ({"path": "a.b.*.id"}, True),
        ({"path": "count"}, False),
        ({"path": "none"}, False),
        ({"path": "missing"}, False),
        ({"path": "count", "equals": 0}, True),
        ({"path": "a.b.*.on", "equals": True}, True),
        ({"path": "a.b.*.id", "equals": 1}, False),
        ({"path": "missing", "equals": False}, False),
        ({"path": "a.b.*.of.n", "contains": "{key}"}, True),
        ({"path": "a.b.*.of.n", "contains": "z"}, False),
        ({"text": '"n": "{key}"'}, True),
        ({"text": "nowhere"}, False),
    ],
)
def test_evaluates_conditions(condition: dict[str, object], is_so: bool) -> None:  # noqa: FBT001  a parameter of the case
    assert holds(Condition.model_validate(condition), said(TREE), {"key": "xy"}) is is_so


def test_a_list_contains_its_entries_and_not_parts_of_them() -> None:
    rights = said({"rights": ["set_notes_private"]})
    assert holds(Condition(path="rights", contains="set_notes_private"), rights, {})
    assert not holds(Condition(path="rights", contains="notes"), rights, {})


def test_a_truncated_answer_matches_nothing() -> None:
    with pytest.raises(ValueError, match="too long"):
        holds(Condition(path="a"), said(TREE, whole=False), {})
    with pytest.raises(ValueError, match="too long"):
        holds(Condition(text="nowhere"), said("so far", whole=False), {})
    assert holds(Condition(text="far"), said("so far", whole=False), {})


@pytest.mark.parametrize("wrong", [{}, {"path": "a", "text": "b"}])
def test_a_condition_has_exactly_one_subject(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="set either path or text, not both"):
        Condition.model_validate(wrong)


@pytest.mark.parametrize(
    ("key", "line"),
    [(("a",), 1), (("a", "b", "c"), 3), (("x", 1, "y"), 8), (("x", 1, "z"), 7), (("q r",), None), (("a", "d", "e"), 4)],
)
def test_finds_a_key_where_it_is_written(key: tuple[str | int, ...], line: int | None) -> None:
    text = "[a]\n# c = 0\nb.c = 1\nd = { e = 2 }\n[[x]]\ny = 3\n[[x]]\n'y' = 4\n"
    assert line_of(text, key) == line


async def whole(content: Content) -> bytes:
    return b"".join([chunk async for chunk in content])


@pytest.fixture
def photo(tmp_path: Path) -> Attachment:
    file = tmp_path / "photo"
    file.write_bytes(bytes(range(256)) * 500)
    return Attachment('Foto "1"; ü\n.png', "image/png", file, 128_000)


def test_a_file_is_base64_in_json(photo: Attachment) -> None:
    part = FilePart(photo.path, photo.size, as_base64=True)
    content = json_content({"a": [{"data": part}, "text", f"data:image/png;base64,{part}"]}, [part])
    sent = asyncio.run(whole(content))
    assert len(content) == len(sent)
    tree = json.loads(sent)["a"]
    assert tree[2] == f"data:image/png;base64,{tree[0]['data']}"
    assert "128000 bytes" in content.shown()


def test_a_form_has_fields_and_files_that_cannot_break_out(photo: Attachment) -> None:
    content = multipart_content({"body": 'a "b"\r\n--x', "cc": ["a", "b"], 'x"\r\ny': 1}, "files[]", [photo])
    sent = asyncio.run(whole(content))
    assert len(content) == len(sent)
    parts = sent.split(b"--" + content.content_type.partition("boundary=")[2].encode())
    assert [part.partition(b"\r\n\r\n")[0].strip() for part in parts[1:-1]] == [
        b'Content-Disposition: form-data; name="body"',
        b'Content-Disposition: form-data; name="cc"',
        b'Content-Disposition: form-data; name="cc"',
        b'Content-Disposition: form-data; name="x%22%0D%0Ay"',
        'Content-Disposition: form-data; name="files[]"; filename="Foto %221%22; ü%0A.png"\r\n'
        "Content-Type: image/png".encode(),
    ]
    assert parts[-2].partition(b"\r\n\r\n")[2][:-2] == photo.path.read_bytes()


def test_a_file_that_has_become_shorter_is_not_padded(photo: Attachment) -> None:
    photo.path.write_bytes(b"short")
    with pytest.raises(OSError, match="became shorter"):
        asyncio.run(whole(file_content(photo, None)))


def test_a_large_attachment_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "film.bin"
    with file.open("wb") as film:
        film.truncate(50_000_000)
    part = FilePart(file, 50_000_000, as_base64=True)
    for content in (
        json_content({"data": part}, [part]),
        file_content(Attachment("f", "video/mp4", file, part.size), None),
    ):
        tracemalloc.start()
        assert asyncio.run(measured(content)) == len(content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000


async def measured(content: Content) -> int:
    return sum([len(chunk) async for chunk in content])


ASKING = """
[messages.customer]
path = "/tickets/{ticket_id}/notes"
ignores = ["cc_emails"]
body = { text = "{body}" }
preflight = "right"
verify = { path = "/tickets/{ticket_id}", holds = { path = "ok" } }

[preflight.right]
remedy = "give it the right"

[[preflight.right.steps]]
path = "/me"
enough = { path = "admin", equals = true }
take = { role = "roles.*" }

[[preflight.right.steps]]
each = "role"
path = "/roles/{role}"
holds = { path = "rights", contains = "note" }

[look_up]
path = "/tickets/{ticket_id}/notes"
query = { of = "{delivery_key}" }
holds = { path = "count" }
"""
ME, NOTES, FOUND = "/me", "/tickets/12345/notes", f"/tickets/12345/notes?of={KEY}"


def body(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("me", "roles", "kind", "paths"),
    [
        ({"admin": True}, {}, OutcomeKind.DELIVERED, [ME, NOTES]),
        ({"roles": [1, 2]}, {1: [], 2: ["note"]}, OutcomeKind.DELIVERED, [ME, "/roles/1", "/roles/2", NOTES]),
        ({"roles": [1, 2]}, {1: [], 2: ["notes"]}, OutcomeKind.INVALID, [ME, "/roles/1", "/roles/2"]),
        ({"roles": []}, {}, OutcomeKind.INVALID, [ME]),
        ({}, {}, OutcomeKind.INVALID, [ME]),
        ("no JSON", {}, OutcomeKind.REFUSED, [ME]),
    ],
)
def test_nothing_is_sent_until_the_preflight_proves_it_safe(
    me: object, roles: dict[int, list[str]], kind: OutcomeKind, paths: list[str], tmp_path: Path
) -> None:
    at = {f"/roles/{role}": [answer(200, body({"rights": rights}))] for role, rights in roles.items()}
    at[ME] = [answer(200, me.encode() if isinstance(me, str) else body(me))]
    with Hostile(answer(201), at=at) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, ASKING)))
    assert (outcome.kind, server.paths) == (kind, paths)
    assert ("give it the right" in (outcome.error or "")) == (kind is OutcomeKind.INVALID)


def delivered_or_cut(
    settings: RoutedGatewaySettings, server: Hostile, behaviour: Behaviour, path: str, *messages: QueuedMessage
) -> tuple[Outcome, float | None]:
    """Deliver a message. If the server keeps silent at a path, let the time limit end there, and return the limit."""
    if behaviour is not silence:
        return deliver(settings, *messages), None

    def attempt(seconds: float) -> Outcome:
        return deliver(settings.model_copy(update={"request_timeout_seconds": seconds}), *messages)

    return at_the_limit(attempt, lambda: path in server.paths)


def unsettled(ago: timedelta = timedelta(days=1)) -> QueuedMessage:
    return queued()._replace(unsettled_since=NOON - ago)


LOOKING = ASKING.replace('preflight = "right"\n', "")


def test_a_message_that_is_absent_is_sent_after_the_settling_time(tmp_path: Path) -> None:
    with Hostile(answer(201), at={FOUND: [answer(200, body({"count": 0}))]}) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, LOOKING))
        early = deliver(settings, unsettled(timedelta(seconds=119)))
        assert (early.kind, server.paths) == (OutcomeKind.REFUSED, [FOUND])
        assert "within the next 1 s" in (early.error or "")
        assert deliver(settings, unsettled(timedelta(seconds=120))).kind is OutcomeKind.DELIVERED
    assert server.paths == [FOUND, FOUND, NOTES]


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (answer(401), OutcomeKind.UNAUTHORIZED),
        (answer(404), None),
        (answer(429), OutcomeKind.THROTTLED),
        (answer(500), OutcomeKind.TRANSIENT),
        (answer(200, b"<html>"), OutcomeKind.REFUSED),
        (close, OutcomeKind.TRANSIENT),
        (silence, OutcomeKind.UNREACHABLE),
    ],
)
@pytest.mark.parametrize(
    ("text", "path", "message", "missing"),
    [(ASKING, ME, queued(), OutcomeKind.PERMANENT), (LOOKING, FOUND, unsettled(), OutcomeKind.REFUSED)],
    ids=["preflight", "look-up"],
)
def test_a_question_without_an_answer_neither_sends_nor_delivers(
    text: str,
    path: str,
    message: QueuedMessage,
    missing: OutcomeKind,
    behaviour: Behaviour,
    kind: OutcomeKind | None,
    tmp_path: Path,
) -> None:
    with Hostile(answer(201), at={path: [behaviour]}) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, text))
        outcome, _ = delivered_or_cut(settings, server, behaviour, path, message)
        assert outcome.kind is (kind or missing)
        assert not may_have_arrived(outcome.kind, outcome.status_code)
        assert set(server.paths) == {path}


@pytest.mark.parametrize(
    ("behaviour", "kind", "error"),
    [
        (answer(200, b'{"ok": true}'), OutcomeKind.DELIVERED, None),
        (
            answer(200, b'{"ok": false}'),
            OutcomeKind.PERMANENT,
            "the message arrived, but the copy read back is not as intended",
        ),
        (answer(500), OutcomeKind.DELIVERED, "delivered, but not verified: reading back: HTTP 500"),
        (silence, OutcomeKind.DELIVERED, "delivered, but not verified: no response within {:g} s"),
    ],
)
def test_a_failed_read_back_does_not_undo_the_delivery(
    behaviour: Behaviour, kind: OutcomeKind, error: str | None, tmp_path: Path
) -> None:
    with Hostile(answer(201), at={"/tickets/12345": [behaviour]}) as server:
        preset = preset_file(tmp_path, LOOKING)
        settings = gateway_settings(server.url, preset=preset, verify=True)
        outcome, limit = delivered_or_cut(settings, server, behaviour, "/tickets/12345")
    assert outcome.kind is kind
    assert (outcome.error or "").startswith((error or "").format(limit))
    assert (outcome.error is None) is (error is None)


AHEAD = """
[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
body = { files = { for_each = "attachments", give = { token = "{each.token}" } } }

[upload]
path = "/uploads"
query = { name = "{each.name}" }
token = "upload.token"
"""


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (answer(201, b'{"upload": {"token": 7}}'), OutcomeKind.DELIVERED),
        (answer(201, b"{}"), OutcomeKind.REFUSED),
        (answer(413), OutcomeKind.PERMANENT),
        (answer(500), OutcomeKind.TRANSIENT),
        (close, OutcomeKind.TRANSIENT),
    ],
)
def test_a_message_without_its_attachment_is_not_sent(behaviour: Behaviour, kind: OutcomeKind, tmp_path: Path) -> None:
    (tmp_path / "ü.txt").write_text("text")
    with Hostile(answer(201), at={"/uploads?name=%C3%BC.txt": [behaviour]}) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, AHEAD), attachments_dir=tmp_path)
        assert deliver(settings, queued(attachments='["ü.txt"]')).kind is kind
        sent = [json.loads(request.body) for request in server.requests if request.path == "/notes"]
    assert sent == ([{"files": [{"token": 7}]}] if kind is OutcomeKind.DELIVERED else [])


@pytest.mark.parametrize("name", ["missing.txt", "../secret"])
def test_a_message_whose_file_is_missing_is_not_sent(name: str, tmp_path: Path) -> None:
    with Hostile(answer(201)) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, AHEAD), attachments_dir=tmp_path)
        outcome = deliver(settings, queued(attachments=json.dumps([name])))
    assert (outcome.kind, server.paths) == (OutcomeKind.INVALID, [])
