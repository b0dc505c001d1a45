"""Presets: templates are filled safely, answers are classified by their rules, and errors say where a mistake is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import REQUIRED_COLUMNS, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.presets.loader import known_presets, load_preset, preset_text
from retrycli.gateway.presets.template import fill
from tests.gateway.deliveries import (
    COLUMNS,
    KEY,
    PATH,
    deliver,
    deliver_in_turn,
    gateway_settings,
    open_gateway,
    preset_file,
    queued,
)
from tests.gateway.hostile import SUCCEEDED, Hostile, Received, answer
from tests.test_manual import PAGES, blocks

NOTE = """
[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
body = { text = "{body}" }
"""
"""A preset that tests extend."""


def sent(*messages: QueuedMessage, **changes: object) -> list[Received]:
    """Deliver messages; return the requests that the server received."""
    with Hostile(answer(200, SUCCEEDED)) as server:
        outcomes = deliver_in_turn(gateway_settings(server.url, **changes), *messages)
    assert outcomes == [Outcome(OutcomeKind.DELIVERED, 200)] * len(messages)
    return server.requests


def refused(message: QueuedMessage, **changes: object) -> str:
    """Return the error of a message that is not sent."""
    with Hostile(answer(200, SUCCEEDED)) as server:
        outcome = deliver(gateway_settings(server.url, **changes), message)
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.PERMANENT, None)
    assert not server.connections
    return outcome.error or ""


def test_the_generic_preset_sends_each_type_of_message() -> None:
    """An internal note has no recipient."""
    types = ("customer", "supplier", "internal")
    requests = sent(*(queued(f"key-{name}", message_type=name, body="Grüße 🎫") for name in types))
    texts = {"subject": "Your delivery", "body": "Grüße 🎫"}
    mailed = {"recipient": "anna@example.com", "cc": ["ben@example.com"], "bcc": []}
    expected = [(PATH, mailed), (PATH, mailed), ("/tickets/12345/notes", {})]
    for name, request, (path, content) in zip(types, requests, expected, strict=True):
        assert (request.method, request.path) == ("POST", path)
        assert json.loads(request.body) == {"message_type": name, **texts, **content}
        assert "Grüße 🎫".encode() in request.body
        assert {name: value for name, value in request.headers.items() if name != "host"} == {
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(request.body)),
            "user-agent": "retrycli",
            "idempotency-key": f"key-{name}",
        }


def test_a_list_stays_a_list_and_a_null_a_null() -> None:
    lists = {"cc_emails": '["a@example.com", "ü@example.com"]', "bcc_emails": '[{"name": "B"}]'}
    [request] = sent(queued(**lists, subject=None, recipient_email=None))
    content = json.loads(request.body)
    assert (content["cc"], content["bcc"]) == (["a@example.com", "ü@example.com"], [{"name": "B"}])
    assert (content["subject"], content["recipient"]) == (None, None)


def test_an_optional_missing_column_is_null() -> None:
    """The generic preset works with a table of only the required columns."""
    rule = load_preset("generic").messages[queued().message.message_type]
    fields = {name: queued().message.fields[name] for name in REQUIRED_COLUMNS}
    body = fill(rule.body, fields)
    assert isinstance(body, dict)
    assert (body["recipient"], body["cc"], body["bcc"]) == (None, None, None)
    open_gateway(gateway_settings("http://127.0.0.1:1"), columns=REQUIRED_COLUMNS)


def test_a_body_has_columns_texts_and_other_values(tmp_path: Path) -> None:
    """In a text, a list is joined, and a null is empty."""
    body = """
        [messages.customer.body]
        queue = "{queue_id}"
        text = "Queue {queue_id}: {body} to {cc_emails}; {bcc_emails}; {recipient_email}."
        braces = "{{queue_id}}"
        flags = [true, 7, "{subject}", { deep = ["{retry_count}"] }]
        empty = ""
        """
    rule = load_preset(preset_file(tmp_path, '[messages.customer]\npath = "/notes"\n' + body))
    copies = {"cc_emails": '["a@example.com", "b@example.com"]', "recipient_email": None}
    message = queued(queue_id=31, **copies).message
    assert fill(rule.messages[message.message_type].body, message.fields) == {
        "queue": 31,
        "text": "Queue 31: It is on its way. to a@example.com, b@example.com; ; .",
        "braces": "{queue_id}",
        "flags": [True, 7, "Your delivery", {"deep": [3]}],
        "empty": "",
    }


def test_a_ticket_id_stays_one_path_segment() -> None:
    paths = {
        "..a/b..;.c": "/tickets/..a%2Fb..;.c/messages",
        "1?x=2#y": "/tickets/1%3Fx=2%23y/messages",
        "%2e%2e": "/tickets/%252e%252e/messages",
        "1\r\nX-Evil: 1": "/tickets/1%0D%0AX-Evil:%201/messages",
    }
    requests = sent(*(queued(ticket_id=ticket_id) for ticket_id in paths))
    assert [request.path for request in requests] == [*paths.values()]


@pytest.mark.parametrize("ticket_id", ["..", "7/../8", "./7", "..\\admin", "7;/..;x/8"])
def test_a_ticket_id_that_would_leave_its_segment_is_not_sent(ticket_id: str) -> None:
    assert "ticket_id has an invalid value for the path" in refused(queued(ticket_id=ticket_id))


def test_a_path_has_no_empty_segments(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, NOTE.replace("/notes", "/notes/{recipient_email}"))
    assert "recipient_email has an invalid value for the path" in refused(queued(recipient_email=None), preset=preset)


def test_headers_of_a_preset(tmp_path: Path) -> None:
    """They replace ours, except the delivery key, whose header can only be renamed."""
    headers = 'accept = "text/plain", USER-AGENT = "agent", x-request-id = "{ticket_id}", X-To = "to {recipient_email}"'
    preset = preset_file(tmp_path, f'key_header = "X-Request-Id"\n{NOTE}headers = {{ {headers} }}')
    requests = sent(queued(), queued(recipient_email=None), preset=preset)
    for request, to in zip(requests, ("to anna@example.com", "to"), strict=True):
        found = request.headers
        assert (found["accept"], found["user-agent"], found["x-to"]) == ("text/plain", "agent", to)
        assert (found["x-request-id"], "idempotency-key" in found) == (KEY, False)
    assert refused(queued(recipient_email="a\r\nX-Evil: 1"), preset=preset) == (
        "the request can't be built: invalid value for the header X-To: it must be printable ASCII"
    )


def mistake(name: str, columns: tuple[str, ...] = COLUMNS) -> str:
    """Return the error of an invalid preset."""
    with pytest.raises(ConfigurationError) as raised:
        open_gateway(gateway_settings("http://127.0.0.1:1", preset=name), columns=columns)
    return str(raised.value)


@pytest.mark.parametrize("name", ["zendsk", "", "../presets/generic", "GENERIC"])
def test_a_missing_preset_is_named(name: str) -> None:
    assert mistake(name).startswith(f"gateway.preset: no preset {name!r}; give a .toml file, or one of ")


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    for name in ("missing", "folder"):
        file = tmp_path / f"{name}.toml"
        assert mistake(str(file)) == f"gateway.preset: {file} does not exist, or is not a file"
    long = tmp_path / f"{'x' * 300}.toml"
    assert mistake(str(long)) == f"gateway.preset: can't read {long}: File name too long"
    file = tmp_path / "own.toml"
    file.write_bytes(b'title = "\xff"')
    assert mistake(str(file)) == f"gateway.preset: can't read {file}: the file is not valid UTF-8; save it as UTF-8"
    for text in ("[messages.customer\n", f"x = {'9' * 5000}"):
        file.write_text(text)
        assert mistake(str(file)).startswith(f"preset {file} is not valid TOML: ")
    file.write_text(f"[messages.customer]\npath = '/'\nbody{'.x' * 5000} = 1")
    assert mistake(str(file)) == f"preset {file} is nested too deeply"
    file.write_text(preset_text("generic"), encoding="utf-8-sig")
    assert load_preset(str(file)) == load_preset("generic")


LOOK = "[look_up]\npath = '/all'\nholds = "
AUTH = "[auth]\nheaders = { A = '{token}' }\n"
AUTH_WITH_SESSION = "[auth]\nheaders = { A = '{session}' }\n[auth.session]\npath = '/log-in'\ntoken = 't'\n"
LOOK_UP = "[look_up]\npath = '/all'\nholds = { path = 'x', contains = '{delivery_key}' }\n"
MARKED = NOTE.replace("{body}", "{body}{marker}") + "marker = { text = 'Ref. {delivery_key}' }\n"
PREFLIGHT = "[preflight.may]\nremedy = 'r'\n[[preflight.may.steps]]\npath = '/p'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NOTE + "[[classify]]\nstatus = [409]\noutcome = 'fine'", "classify.0.outcome"),
        (NOTE + "[messages.partner]\npath = '/'", "messages.partner"),
        (NOTE + "method = 'GET'", "messages.customer.method"),
        (NOTE.replace("/notes", "notes"), "messages.customer.path"),
        (NOTE + "headers = { 'X Y' = 'z' }", "messages.customer.headers.X Y"),
        (NOTE + "headers = { 'X-Ü' = 'z' }", "messages.customer.headers.X-Ü"),
        (
            NOTE + "headers = { X = 'ü' }",
            "messages.customer.headers.X (line 6): a header must consist of printable ASCII",
        ),
        (NOTE + "headers = { X = '{body}' }", "messages.customer.headers.X (line 6): body may contain line breaks"),
        ('key_header = "Key: 1"\n' + NOTE, "key_header"),
        ("[success]\nfield = 'ok'", "messages: the key is missing"),
        # Keys and lists
        (NOTE + "[success]\nstatus = 201", "success.status (line 7): must be a list: values in brackets, or tables"),
        (NOTE + "[answer]\nerror = ['x']", "answer.error (line 7): no such key (valid keys: errors, id, id_header"),
        (NOTE + "requird = []", "messages.customer.requird (line 6): no such key (valid keys: method, path, query, "),
        ("[lookup]\n" + NOTE, "lookup (line 1): no such key (valid keys: about, auth, check, messages, "),
        (NOTE + LOOK + "{ paht = 'x' }", "look_up.holds.paht (line 8): no such key (valid keys: path, equals, "),
        (NOTE + "[auth.session]\nbdy = 1", "auth.session.bdy (line 7): no such key (valid keys: method, path, "),
        (NOTE + "[preflight.path]\nremdy = 1", "preflight.path.remdy (line 7): no such key (valid keys: remedy, steps"),
        # Look-ups that would find every message, or no message
        (NOTE + LOOK + "{ text = '{delivery_key}' }", "look_up (line 6): a look-up needs a path"),
        (
            NOTE + LOOK + "{ path = '[text={body}].key', contains = '{delivery_key}' }",
            "look_up (line 6): {body} is part of the text, but a look-up must find earlier versions of it as well",
        ),
        (NOTE + LOOK + "{ path = 'x' }", "look_up (line 6): the path, query or condition must contain {delivery_key}"),
        (NOTE + LOOK + "{ path = 'x', equals = '{delivery_key}' }", "look_up.holds (line 8): equals accepts no place"),
        (NOTE + LOOK + "{ path = 'x', equals = 1, contains = '{delivery_key}' }", "look_up.holds (line 8): set at mos"),
        # References and bodies
        (NOTE + "preflight = 'nothing'", "messages.customer.preflight: the preset has no preflight 'nothing'"),
        (
            NOTE.replace("{body}", "{body}{marker}") + "marker = { text = '{delivery_key}', unless = 'nothing' }",
            "messages.customer.marker.unless: the preset has no preflight 'nothing'",
        ),
        (NOTE + "like = 'supplier'", "messages.customer.like: 'supplier' must be another message type in the preset"),
        (NOTE + "files = 'file'", "messages.customer (line 2): files needs encoding = 'multipart'"),
        (
            NOTE.replace('{ text = "{body}" }', "{ a = { b = 1 } }\nencoding = 'multipart'"),
            "messages.customer (line 2): the values in a multipart body must be strings or lists of strings",
        ),
        (
            NOTE + "format = 'html'",
            "messages.customer (line 2): the format is html: write {body|html}, or {body|raw} if",
        ),
        (
            NOTE + "[upload]\npath = '/u'\ntoken = 't'\nfiles = 'f'\ncontent_type = 'text/plain'",
            "upload (line 6): set at most one of content_type (the attachment is the whole body) and files",
        ),
        *[
            (
                NOTE.replace('"{body}"', f"[{{ {entry} }}]"),
                'messages.customer.body (line 5): write { for_each = "COLUMN"',
            )
            for entry in (
                "for_each = 'x'",
                "for_each = 'x', give = '{each}', more = 1",
                "for_each = 7, give = '{each}'",
            )
        ],
        *[
            (
                NOTE.replace('"{body}"', f"{{ for_each = 'x', give = '{{each}}', optional = {optional} }}"),
                "messages.customer.body (line 5): in a for_each table, optional must be true or false",
            )
            for optional in ("1", "'yes'")
        ],
        # Templates
        *[
            (NOTE.replace("{body}", template), "messages.customer.body (line 5): ")
            for template in ("{subject", "subject}", "{}", "{a.upper}", "{a[0]}", "{a!r}", "{a:>9}", "{a:{b}}", "{a b}")
        ],
        (NOTE.replace("/notes", "/{}"), "messages.customer.path (line 3): "),
        (NOTE + "headers.X-Y = '{}'", "messages.customer.headers.X-Y (line "),
        (NOTE.replace('"{body}"', "[{y = ['{}']}]"), "messages.customer.body (line 5): "),
        (NOTE.replace("{body}", "{body}{marker}"), "messages.customer (line 2): {marker} is used but not defined"),
        (NOTE + "marker = { text = '{delivery_key}' }", "messages.customer (line 2): the marker is not used"),
        (NOTE.replace("{body}", "{page}"), "messages.customer (line 2): {page} can't be used in a message; remove it"),
        (NOTE + "query = { f = '{each.nmae}' }", "messages.customer (line 2): {each.nmae} can't be used in a message"),
        (NOTE.replace("{body}", "{each}"), "messages.customer.body (line 5): '{each}' refers to a list element"),
        (NOTE.replace("{body}", "a {each.name}"), "messages.customer.body (line 5): 'a {each.name}' refers to"),
        # Placeholders without a value, which would be sent empty
        (NOTE + "query = { f = '{each.token}' }", "messages.customer: {each.token} comes from [upload]"),
        (NOTE + "query = { n = '{each.name}' }", "messages.customer: {each.name} is not available here"),
        (NOTE.replace("{body}", "{session}"), "messages.customer: {session} comes from [auth.session]"),
        (NOTE.replace("{body}", "{identity}"), "messages.customer: {identity} comes from identity in [auth]"),
        (NOTE + "[check]\npath = '/users/{username}'", "check: {username} is not available here (available: none)"),
        (NOTE + "[check]\npath = '/users'\nquery = { of = '{subject}' }", "check: {subject} "),
        (NOTE + AUTH_WITH_SESSION + "[check]\npath = '/'\nquery = { s = '{session}' }", "check: {session} is not avai"),
        (NOTE + AUTH_WITH_SESSION.replace("/log-in", "/{username}"), "auth.session: {username} "),
        (NOTE + AUTH_WITH_SESSION + "body = { s = '{session}' }", "auth.session: {session} "),
        (NOTE + AUTH.replace("{token}", "{session}"), "auth: {session} "),
        (NOTE + AUTH_WITH_SESSION.replace("[auth.s", "identity = '{session}'\n[auth.s"), "auth.identity: {session} "),
        (NOTE + LOOK_UP.replace("/all", "/all/{session}"), "look_up: {session} "),
        (NOTE + LOOK_UP.replace("/all", "/all/{external_id}"), "look_up: {external_id} "),
        (NOTE + LOOK_UP.replace("/all", "/all/{marker}"), "look_up: {marker} "),
        (NOTE + AUTH_WITH_SESSION + LOOK_UP.replace("'x'", "'[a={session}].b'"), "look_up: {session} "),
        (MARKED + "confirmed = { path = 'x', contains = '{marker}' }", "messages.customer.confirmed: {marker} "),
        (NOTE + PREFLIGHT.replace("/p", "/{page}"), "preflight.may: {page} "),
        (NOTE + PREFLIGHT + "take = { x = '[a={page}].b' }", "preflight.may: {page} "),
        (MARKED.replace("Ref. ", "{session}"), "messages.customer.marker: {session} "),
        (NOTE + "[upload]\npath = '/u/{session}'\ntoken = 't'", "upload: {session} "),
        (NOTE + "[upload]\npath = '/u/{each.token}'\ntoken = 't'", "upload: {each.token} "),
    ],
)
def test_a_mistake_is_named_with_its_key_and_line(text: str, said: str, tmp_path: Path) -> None:
    file = preset_file(tmp_path, text)
    assert mistake(file).startswith(f"preset {file}: {said}")


def test_all_placeholders_without_a_value_are_reported_together(tmp_path: Path) -> None:
    text = NOTE + "[check]\npath = '/{username}/{token}'\n" + LOOK_UP.replace("/all", "/{session}")
    file = preset_file(tmp_path, text)
    assert mistake(file) == (
        f"preset {file}: check: {{token}} is not available here (available: none); "
        "check: {username} is not available here (available: none); "
        "look_up: {session} comes from [auth.session], which is missing"
    )


@pytest.mark.parametrize(
    "text",
    [
        NOTE + AUTH + "identity = '{username}'\n[check]\npath = '/users/{identity}'",
        NOTE + AUTH_WITH_SESSION + LOOK_UP.replace("/all", "/all/{session}/{page}"),
        MARKED + LOOK_UP,
        NOTE + PREFLIGHT + "take = { role = 'r' }\n[[preflight.may.steps]]\neach = 'role'\npath = '/r/{role}'",
        NOTE + "[upload]\npath = '/u/{ticket_id}'\nquery = { n = '{each.name}' }\ntoken = 't'",
        NOTE + "verify = { path = '/x/{external_id}', query = { p = '{page}' }, holds = { path = '{external_id}' } }",
    ],
)
def test_a_placeholder_with_a_value_is_accepted(text: str, tmp_path: Path) -> None:
    open_gateway(gateway_settings("http://127.0.0.1:1", preset=preset_file(tmp_path, text), username="u", token="t"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (NOTE + "[upload]\npath = '/u/{colour}'\ntoken = 't'", "upload"),
        (NOTE + PREFLIGHT + "take = { x = '[a={colour}].b' }", "preflight.may"),
        (NOTE + PREFLIGHT + "each = 'colour'", "preflight.may"),
        (NOTE + LOOK + "{ path = '[key={colour}].id', contains = '{delivery_key}' }", "look_up"),
        ("[messages.supplier]\npath = '/'\nheaders.X = '{colour}'", "messages.supplier"),
        ("[messages.supplier]\npath = '/'\nbody.x = ['{colour}']", "messages.supplier"),
    ],
)
def test_a_missing_column_is_named_wherever_it_is_used(text: str, where: str, tmp_path: Path) -> None:
    """A misspelt column would otherwise count as an empty text, and match each entry without a key."""
    file = preset_file(tmp_path, text)
    assert mistake(file) == f"the preset's {where} refers to column colour, which does not exist"
    columns = [*COLUMNS, "colour", "x"]
    open_gateway(gateway_settings("http://127.0.0.1:1", preset=file), columns=columns)


def test_a_read_back_only_path_does_not_send_a_column(tmp_path: Path) -> None:
    """A column that only the read-back uses is never sent, so this message would lose its copies."""
    verify = "verify = { path = '/last', holds = { path = 'cc', contains = '{cc_emails}' } }\n"
    file = preset_file(tmp_path, NOTE.replace('ignores = ["cc_emails"]\n', verify))
    with Hostile(answer(200, SUCCEEDED)) as server:
        assert deliver(gateway_settings(server.url, preset=file)).kind is OutcomeKind.INVALID
    assert not server.requests


CLASSIFY = (
    NOTE
    + """
[[classify]]
status = [409]
text = "Already Sent"
outcome = "delivered"

[[classify]]
status = [404, 409]
outcome = "transient"

[[classify]]
text = "maintenance"
outcome = "throttled"

[[classify]]
status = [409, 422]
outcome = "refused"
"""
)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (409, "Message was ALREADY SENT.", OutcomeKind.DELIVERED),
        (409, "locked", OutcomeKind.TRANSIENT),
        (404, "already sent", OutcomeKind.TRANSIENT),
        (200, "down for maintenance", OutcomeKind.THROTTLED),
        (422, "no", OutcomeKind.REFUSED),
        (415, "no", OutcomeKind.PERMANENT),
    ],
)
def test_a_preset_maps_answers_to_other_outcomes(status: int, text: str, kind: OutcomeKind, tmp_path: Path) -> None:
    with Hostile(answer(status, json.dumps({"error": text}).encode())) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, CLASSIFY)))
    error = None if kind is OutcomeKind.DELIVERED else f"HTTP {status}: {text}"
    assert outcome == Outcome(kind, status, error)
    assert len(server.requests) == 1


def test_an_outcome_assigned_by_a_preset_is_not_in_doubt(tmp_path: Path) -> None:
    """A rule removes the doubt even if it assigns the default outcome."""
    rule = "[[classify]]\nstatus = [403]\ntext = 'closed'\noutcome = 'permanent'"
    with Hostile(answer(403, b'{"error": "closed"}'), answer(403, b'{"error": "moved"}')) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, f"{NOTE}\n{rule}"))
        outcomes = deliver_in_turn(settings, queued(), queued())
    assert [(each.kind, each.in_doubt) for each in outcomes] == [
        (OutcomeKind.PERMANENT, False),
        (OutcomeKind.PERMANENT, True),
    ]


@pytest.mark.parametrize(
    ("rule", "body", "kind"),
    [
        ("", b"", OutcomeKind.DELIVERED),
        ("", b"<html>", OutcomeKind.UNKNOWN),
        ("text = 'ok: '", b"<html>ok: issue 7", OutcomeKind.DELIVERED),
        ("text = 'ok: '", b"<html>who are you?", OutcomeKind.REFUSED),
        ("text = 'ok: '", b"<html>" + b" " * 3_000_000, OutcomeKind.UNKNOWN),
        ("content_type = 'Text/HTML'", b"<html>", OutcomeKind.DELIVERED),
        ("content_type = 'text/plain'", b"<html>", OutcomeKind.REFUSED),
        ("", b'{"succeeded": false}', OutcomeKind.DELIVERED),
        ("field = 'ok'", b'{"ok": true}', OutcomeKind.DELIVERED),
        ("field = 'ok'", b'{"ok": false}', OutcomeKind.REFUSED),
        ("field = 'ok'", b'{"ok": "yes"}', OutcomeKind.REFUSED),
        ("field = 'ok'", b"{}", OutcomeKind.DELIVERED),
        ("field = 'ok'", b"", OutcomeKind.DELIVERED),
        ("field = 'ok'", b"<html>", OutcomeKind.UNKNOWN),
        ("field = 'ok'\nrequired = true", b'{"ok": true}', OutcomeKind.DELIVERED),
        ("field = 'ok'\nrequired = true", b"[true]", OutcomeKind.REFUSED),
        ("field = 'ok'\nrequired = true", b"", OutcomeKind.REFUSED),
        ("field = 'status'\nequals = 'queued'", b'{"status": "lost"}', OutcomeKind.REFUSED),
        ("field = 'code'\nequals = 0", b'{"code": 0}', OutcomeKind.DELIVERED),
        ("field = 'code'\nequals = 0", b'{"code": 1}', OutcomeKind.REFUSED),
    ],
)
def test_a_preset_defines_success(rule: str, body: bytes, kind: OutcomeKind, tmp_path: Path) -> None:
    with Hostile(answer(200, body, {"Content-Type": "text/html; charset=utf-8"})) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, f"{NOTE}[success]\n{rule}")))
    assert (outcome.kind, outcome.status_code) == (kind, 200)


def test_long_json_needs_no_success_rule(tmp_path: Path) -> None:
    with Hostile(answer(200, json.dumps(["x" * 3_000_000]).encode())) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, NOTE)))
    assert outcome == Outcome(OutcomeKind.DELIVERED, 200)


@pytest.mark.parametrize(
    ("content_type", "said"), [("text/html; charset=utf-8", "text/html"), ("<b>our secret</b>", "of no known type")]
)
def test_a_success_that_no_rule_can_judge_may_have_arrived(content_type: str, said: str, tmp_path: Path) -> None:
    with Hostile(answer(200, b"OK", {"Content-Type": content_type})) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, NOTE)))
    error = f"HTTP 200 {said}, and the preset has no [success] that can judge it"
    assert outcome == Outcome(OutcomeKind.UNKNOWN, 200, error, unread=True)


def test_a_preset_defines_where_an_answer_holds_its_error(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, NOTE + "[answer]\nerrors = ['reason', 'code']")
    with Hostile(answer(400, b'{"error": "E", "code": 7, "reason": ""}')) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset))
    assert outcome.error == "HTTP 400: 7"


@pytest.mark.parametrize("name", known_presets())
def test_no_preset_is_misled_by_text_in_an_answer(name: str) -> None:
    """Answers can contain customers' texts, and errors can quote a message. Such a text must not match a rule."""
    for rule in [each for each in load_preset(name).classify if each.text]:
        for written in (rule.text, f"a {rule.text}", f"{rule.text} b"):
            quoting = json.dumps({"body": written, "all": [written]}, separators=(",", ":"))
            assert not any(rule.applies(status, quoting, "") for status in rule.status)


def test_a_web_form_is_delivered_only_by_its_redirect(tmp_path: Path) -> None:
    """The preset is the manual's, for Roundup."""
    [text] = [block for block in blocks(PAGES["presets"], "toml") if "@ok_message=" in block]
    preset = preset_file(tmp_path, text)

    def outcome(status: int, body: bytes = b"", **headers: str) -> OutcomeKind:
        with Hostile(answer(status, body, headers)) as server:
            settings = gateway_settings(server.url, preset=preset, auth="basic", username="agent", password="pw")
            found = deliver(settings, queued(attachments=None))
        [request] = server.requests
        assert b'name="@action"' in request.body
        return found.kind

    assert outcome(302, Location="/support/issue1?@ok_message=msg%201%20created") is OutcomeKind.DELIVERED
    assert outcome(302, Location="/support/?@action=login") is OutcomeKind.PERMANENT
    assert outcome(200, b"<html>Edit Error: no such user") is OutcomeKind.REFUSED


TRAC_TICKET = (
    b'{"result": [1, {"__jsonclass__": ["datetime", "2026-12-01T06:17:36.112125"]}, {"__jsonclass__": '
    b'["datetime", "2026-12-01T06:17:50.872386"]}, {"summary": "Printer does not print", "reporter": "agent", '
    b'"description": "It says PC LOAD LETTER.", "status": "new", "_ts": "1796105870872386"}], '
    b'"error": null, "id": "k1"}\n'
)
"""The parts that matter of a recorded answer of Trac 1.6 to a comment: the ticket."""


def trac_error(code: int, message: str) -> bytes:
    """Return an error as Trac 1.6 writes it."""
    error = f'{{"name": "JSONRPCError", "code": {code}, "message": "{message}"}}'
    return f'{{"result": null, "id": "k1", "error": {error}}}\n'.encode()


def lacking(right: str, where: str = "") -> str:
    needed = f"{right} privileges are required to perform this operation{where}."
    return f"{needed} You don't have the required permissions."


def to_trac(url: str, folder: Path) -> RoutedGatewaySettings:
    """Return settings for the manual's preset for Trac."""
    [text] = [block for block in blocks(PAGES["systems"], "toml") if '"ticket.update"' in block]
    return gateway_settings(url, preset=preset_file(folder, text), username="agent", password="pw")


def test_trac_gets_a_comment_as_json_rpc(tmp_path: Path) -> None:
    with Hostile(answer(200, TRAC_TICKET, {"Content-Type": "application/json"})) as server:
        assert deliver(to_trac(server.url, tmp_path), queued(cc_emails=None)) == Outcome(OutcomeKind.DELIVERED, 200)
    [request] = server.requests
    assert (request.path, request.headers["content-type"]) == ("/login/rpc", "application/json")
    assert request.headers["authorization"].startswith("Basic ")
    assert json.loads(request.body) == {
        "id": KEY,
        "method": "ticket.update",
        "params": [12345, "It is on its way.", {"action": "leave"}, True],
    }


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (
            TRAC_TICKET.replace(b"PC LOAD", rb"\"error\": {\"name\": \"E\", \"code\": 404, \"message\": \"Ticket 1"),
            OutcomeKind.DELIVERED,
        ),
        (trac_error(404, "Ticket 4711 does not exist."), OutcomeKind.PERMANENT),
        (trac_error(-32603, "No permissions to add a comment."), OutcomeKind.PERMANENT),
        (trac_error(403, lacking("XML_RPC")), OutcomeKind.UNAUTHORIZED),
        # Trac had stored the comment before it reported the next two errors.
        (trac_error(403, lacking("TICKET_VIEW", " on Ticket #1")), OutcomeKind.UNKNOWN),
        (trac_error(-32603, "ServiceException details: listener failed"), OutcomeKind.UNKNOWN),
        # Trac did not give the remaining answers.
        (trac_error(-32603, r"{\"result\": [1], \"code\": 404, \"message\": \"Ticket 1"), OutcomeKind.UNKNOWN),
        (b'{"error": {"code": 404, "name": "JSONRPCError"}, "result": null}', OutcomeKind.REFUSED),
        (b"", OutcomeKind.REFUSED),
    ],
)
def test_an_error_of_trac_with_status_200_is_not_a_delivery(body: bytes, kind: OutcomeKind, tmp_path: Path) -> None:
    with Hostile(answer(200, body, {"Content-Type": "application/json"})) as server:
        outcome = deliver(to_trac(server.url, tmp_path), queued(cc_emails=None))
    assert (outcome.kind, outcome.status_code) == (kind, 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"message_type": "internal"},
        {"message_type": "supplier"},
        {"attachments": '["a.pdf"]'},
        {"cc_emails": '["ben@example.com"]'},
        {"body": " "},
    ],
)
def test_trac_gets_no_message_that_it_would_publish_or_drop(changes: dict[str, object], tmp_path: Path) -> None:
    """Trac has no private comments, and reports success for an empty comment although it stores nothing."""
    with Hostile(answer(200, TRAC_TICKET)) as server:
        outcome = deliver(to_trac(server.url, tmp_path), queued(**{"cc_emails": None, **changes}))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.INVALID, None)
    assert not server.connections
