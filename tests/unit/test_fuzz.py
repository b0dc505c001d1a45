"""Property tests with random input: each parser accepts the input, or reports its error in the documented way.

By default, each property is tested with the same few examples. `-m long` tests many other examples.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.pq import Format

from retrycli.config import template as settings_text
from retrycli.config.loader import load
from retrycli.config.settings import Settings
from retrycli.domain.cron_line import block, block_in, with_block
from retrycli.domain.errors import ConfigurationError, InvalidMessage, NotEdited
from retrycli.domain.fingerprint import cause
from retrycli.domain.message import REQUIRED_COLUMNS, MessageType
from retrycli.domain.outcome import ERROR_LENGTH, RETRY_AFTER_CAP, Outcome, OutcomeKind, one_line, parse_retry_after
from retrycli.domain.outlook import BEGIN, END
from retrycli.domain.sanitize import encodable
from retrycli.gateway.http.response import ANSWER_LIMIT, Answer, outcome_of, outcome_of_question
from retrycli.gateway.presets.loader import Preset, load_preset
from retrycli.gateway.presets.model import MessageRule
from retrycli.gateway.presets.template import fill, fill_header, fill_path
from retrycli.operations.edit_message import EditableMessage, difference
from retrycli.store.postgresql import BEYOND_PYTHON, _or_text
from tests.cpu import cpu_seconds
from tests.gateway.deliveries import NOON, deliver, gateway_settings, open_gateway, queued
from tests.gateway.hostile import Hostile, then_close
from tests.unit.domain.test_cron_line import CONFIG, JOB

FEW, MANY = 25, 20_000

Law = Callable[..., None]


def law(**whatever: st.SearchStrategy[Any]) -> Callable[[Law], Callable[[int], None]]:
    """Turn a property into a test with generated arguments."""

    def as_test(holds: Law) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
        def test(examples: int) -> None:
            how = settings(
                max_examples=examples,
                derandomize=examples == FEW,
                suppress_health_check=[HealthCheck.too_slow],  # examples take long to generate on a busy machine
            )
            how(given(**whatever)(holds))()

        return test

    return as_test


TEXT = st.text()
FROM_A_DATABASE = TEXT | st.binary().map(lambda text: text.decode("utf-8", "surrogateescape"))
ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Texts that may contain lone surrogates, as JSON may."""


SCALARS = st.one_of(
    st.booleans(), st.integers(), st.floats(), TEXT, st.datetimes(), st.dates(), st.sampled_from([10**400, -(2**63)])
)
TREES = st.recursive(SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3))
NO_TREES = [
    *("a." * 5000 + "a = 1", "a = " + "[" * 5000 + "]" * 5000, "a = " + "{a = " * 3000, "a = " + "9" * 5000),
    "[messages.customer]\npath = '/'\nbody." + "a." * 5000 + "a = 1",
]
WRITTEN = st.one_of(
    st.binary(), TEXT.map(str.encode), st.text("a.[]{}=\"'\\\n#-1e:T ").map(str.encode),
    st.sampled_from(NO_TREES).map(str.encode),
)  # fmt: skip


def toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


@contextmanager
def file_of(content: str | bytes) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        file = Path(folder, "others.toml")
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        yield file


RULE_KEYS = [*MessageRule.model_fields, "field", "equals", "required", "errors", "status", "text", "outcome"]
USUAL = ["POST", "/tickets/{ticket_id}", "delivered", True, [409], ["error"], {"X-Note": "{subject}"}]
RULES = st.dictionaries(st.sampled_from(RULE_KEYS) | TEXT, st.sampled_from(USUAL) | TREES, max_size=4)
SOUND = st.fixed_dictionaries(
    {"path": st.just("/{ticket_id}")}, optional={"method": st.just("PUT"), "body": st.dictionaries(TEXT, TREES)}
)
TYPES = st.sampled_from([each.value for each in MessageType])
PRESETS = st.fixed_dictionaries(
    {"messages": st.dictionaries(TYPES, SOUND, min_size=1) | st.dictionaries(TYPES | TEXT, RULES) | TREES},
    optional={"success": RULES, "answer": RULES, "classify": st.lists(RULES, max_size=2) | RULES, "key_header": TREES},
) | st.dictionaries(st.sampled_from(list(Preset.model_fields)) | TEXT, RULES)


@law(tree=PRESETS)
def test_a_preset_is_accepted_or_its_key_is_named(tree: dict[str, object]) -> None:
    with file_of("\n".join(f"{toml(key)} = {toml(value)}" for key, value in tree.items())) as file:
        try:
            load_preset(str(file)).check_columns(REQUIRED_COLUMNS)
        except ConfigurationError as error:
            said = str(error)
            names = (f"preset {file}: {name}" for name in (*tree, "messages"))
            assert said.startswith((*names, "the preset's messages."))


@law(content=WRITTEN)
def test_a_file_is_a_valid_preset_or_valid_settings_or_named(content: bytes) -> None:
    with file_of(content) as file:
        try:
            load_preset(str(file))
        except ConfigurationError as error:
            said = str(error)
            assert said.startswith((f"preset {file}", f"gateway.preset: can't read {file}"))
        try:
            load(file, {})
        except ConfigurationError as error:
            said = str(error)
            assert str(file) in said


@dataclass(frozen=True)
class Column:
    name: str


Parts = tuple[str | Column, ...]


def template(parts: Parts) -> str:
    texts = (part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else part for part in parts)
    return "".join(part if isinstance(part, str) else f"{{{part.name}}}" for part in texts)


def filled(parts: Parts, row: Mapping[str, object]) -> str:
    return "".join(part if isinstance(part, str) else str(row[part.name]) for part in parts)


def with_templates(tree: object, of: Callable[[Parts], object]) -> object:
    match tree:
        case tuple():
            return of(tree)
        case list():
            return [with_templates(item, of) for item in tree]
        case dict():
            return {key: with_templates(item, of) for key, item in tree.items()}
        case _:
            return tree


NASTY = st.sampled_from(
    [
        *(".", "..", "", "../..", "//elsewhere.example", "@elsewhere.example"),
        *("%2e%2e", "%2F", "\\", "?a=b", "#", ":80", ";"),
    ]
)
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.binary(), st.datetimes()),
    *(st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3)),
)
ROWS = st.fixed_dictionaries({"text": TEXT, "other": TEXT | NASTY | st.integers(), "anything": VALUES})
IN_A_TEXT = st.builds(Column, st.sampled_from(["text", "other"]))
TEMPLATES = st.lists(st.text(min_size=1) | IN_A_TEXT, max_size=4).map(tuple).filter(lambda parts: len(parts) != 1)
BODIES = st.recursive(
    st.one_of(TEMPLATES, st.just((Column("anything"),)), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3),
)


@law(tree=BODIES, row=ROWS)
def test_values_arrive_unchanged_in_their_places(tree: object, row: dict[str, object]) -> None:
    def value(parts: Parts) -> object:
        return row["anything"] if parts == (Column("anything"),) else filled(parts, row)

    rule = MessageRule.model_validate({"path": "/", "body": {"tree": with_templates(tree, template)}})
    assert fill(rule.body, row) == {"tree": with_templates(tree, value)}


IN_A_PATH = st.text("ab.~", min_size=1).filter(lambda text: text.strip(".") != "")
STEPS = st.lists(IN_A_PATH | IN_A_TEXT, min_size=1, max_size=3).map(tuple)


@law(steps=st.lists(STEPS, min_size=1, max_size=4), row=ROWS)
def test_no_value_leaves_its_path_segment(steps: list[Parts], row: dict[str, object]) -> None:
    rule = MessageRule(path="/" + "/".join(template(step) for step in steps))
    used = {str(row[part.name]) for step in steps for part in step if isinstance(part, Column)}
    if "" in used or any({".", ".."}.intersection(re.split(r"[/\\;]", each)) for each in used):
        with pytest.raises(InvalidMessage, match="has an invalid value for the path"):
            fill_path(rule.path, row)
        return
    url = httpx.URL("https://tickets.example.com/api" + fill_path(rule.path, row))
    assert (url.host, url.port, url.userinfo, url.query, url.fragment) == ("tickets.example.com", None, b"", b"", "")
    sent = url.raw_path.decode().split("/")
    assert [unquote(value, errors="strict") for value in sent] == ["", "api", *(filled(step, row) for step in steps)]


ASCII = st.text(st.characters(max_codepoint=127), min_size=1)
IN_A_HEADER = st.lists(ASCII | IN_A_TEXT, max_size=3).map(tuple)


@law(parts=IN_A_HEADER, row=ROWS)
def test_a_header_is_sent_unchanged_or_refused(parts: Parts, row: dict[str, object]) -> None:
    wanted = filled(parts, row)
    if wanted.isascii() and wanted.isprintable():
        assert fill_header("X-Note", template(parts), row) == wanted
    else:
        with pytest.raises(InvalidMessage, match="invalid value for the header X-Note"):
            fill_header("X-Note", template(parts), row)


SECRET = "hush-hush"
SECRETS = st.one_of(
    st.builds("{}{}{}".format, TEXT, st.just(SECRET), TEXT),
    st.sampled_from([f"{start}{SECRET}" for start in ("https://", "json://", "https://h:", "https://[")]),
)
HUSHED = SECRETS | st.lists(SECRETS, max_size=2) | st.fixed_dictionaries({"value": SECRETS})
DATABASES = st.sampled_from([f"{scheme}://app:{SECRET}@db:1/app" for scheme in ("postgresql", "mysql", "sqlite", "")])
WORDS_SAID = ("linear", "list", "90,120", "https://tickets.example.com", "bearer", "login", "b.prom")
SAID = st.sampled_from([1, 15, 0.5, True, [90, 120], *WORDS_SAID])
MODELS = {section: type(model).model_fields for section, model in Settings()}
KEYS = [(section, key) for section, model in MODELS.items() for key in model]
TYPE_KEYS = [("schedule", "types", "supplier", key) for key in ("max_retries", "backoff", "factor", "waits_minutes")]
Key = tuple[str, ...]
HIDDEN: dict[Key, st.SearchStrategy[object]]
HIDDEN = {("gateway", "token"): HUSHED, ("gateway", "password"): HUSHED, ("notify", "urls"): HUSHED}
HIDDEN |= {("notify", "ping_url"): HUSHED, ("database", "url"): DATABASES}


def with_value(key: Key) -> st.SearchStrategy[tuple[Key, object]]:
    return st.tuples(st.just(key), HIDDEN.get(key, SAID | TREES))


def variable(pair: tuple[Key, object]) -> tuple[str, str]:
    key, value = pair
    return f"RETRYCLI_{'__'.join(key).upper()}", value if isinstance(value, str) else toml(value)


KNOWN_KEYS = st.sampled_from(list(HIDDEN)) | st.sampled_from([*KEYS, *TYPE_KEYS])
SETTINGS = (KNOWN_KEYS | st.lists(TEXT, min_size=1, max_size=3).map(tuple)).flatmap(with_value)
VARIABLES = SETTINGS.map(variable) | st.tuples(st.sampled_from(["TICKETING_API_BASE_URL", "RETRYCLI_"]), ANY_TEXT)


def beginnings(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@law(pairs=st.lists(SETTINGS, max_size=4), variables=st.lists(VARIABLES, max_size=2).map(dict))
def test_settings_are_accepted_or_a_key_is_named_without_a_secret(
    pairs: list[tuple[Key, object]], variables: dict[str, str]
) -> None:
    lines = [f"{'.'.join(map(toml, key))} = {toml(value)}" for key, value in pairs]
    with file_of("\n".join(lines)) as file:
        try:
            loaded = load(file, variables)
        except ConfigurationError as error:
            keys = {".".join(key) for key, _ in pairs} | {"gateway.base_url"}
            keys |= {name.removeprefix("RETRYCLI_").lower().replace("__", ".") for name in variables}
            names = {beginning for key in keys for beginning in beginnings(key)}
            said = str(error)
            assert said.startswith((f"{file} is not valid TOML: Cannot", "both ", *names))
            told = "".join(traceback.format_exception(error))
        else:
            assert set(loaded.settings.policies) == set(MessageType)
            told = f"{loaded} {settings_text.shown(loaded)}"
        assert SECRET not in told


@pytest.mark.parametrize("figure", ["inf", "-inf", "nan"])
def test_no_setting_is_nan_or_infinite(figure: str) -> None:
    for section, key in KEYS:
        with file_of("") as file, suppress(ConfigurationError):
            loaded = load(file, dict([variable(((section, key), figure))]))
            value = getattr(getattr(loaded.settings, section), key)
            figures = value if isinstance(value, tuple) else (value,)
            assert all(math.isfinite(each) for each in figures if isinstance(each, float))


GENERIC = load_preset("generic")
STRICT = Preset.model_validate({
    "messages": {},
    "success": {"field": "messages", "equals": [], "required": True},
    "classify": [{"status": [409, 500], "outcome": "delivered"}, {"text": "\ufffd", "outcome": "throttled"}],
})  # fmt: skip
GATEWAY = open_gateway(gateway_settings("http://tickets.example.com"))

WORDS = st.one_of(ANY_TEXT, st.text("no \n\r\t\0\x85\u2028\ud800\udc00"), st.text("no ").map(lambda text: text * 200))
JSON = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(ANY_TEXT, each, max_size=3),
)
KNOWN = st.sampled_from(["succeeded", *GENERIC.answer.errors])
CHARSETS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-7", "cp037"])
ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda content, ascii_only, charset: json.dumps(content, ensure_ascii=ascii_only).encode(charset, "replace"),
        st.dictionaries(KNOWN, WORDS) | st.dictionaries(KNOWN, JSON, max_size=3) | JSON,
        st.booleans(),
        CHARSETS,
    ),
)
HEADER_NAMES = st.sampled_from(
    [b"Retry-After", b"Content-Type", b"Content-Encoding", b"Content-Length", b"Transfer-Encoding", b"Location"]
)
HEADER_VALUES = st.one_of(
    st.binary(max_size=20), st.text("0123456789 ,:-GMTJanFeb").map(str.encode), st.integers().map(lambda n: b"%d" % n),
    CHARSETS.map(lambda name: f"application/json; charset={name}".encode()), st.sampled_from([b"gzip", b"chunked"]),
)  # fmt: skip
HEADERS = st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=4)


def understood(status: int, headers: list[tuple[bytes, bytes]], body: bytes, preset: Preset = GENERIC) -> Outcome:
    """Return the outcome that the gateway derives from an answer."""
    response = httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))
    answer = asyncio.run(Answer.read(response))
    outcome = outcome_of(answer, outcome_of_question(answer, preset, NOON), preset)
    return GATEWAY._cleaned(outcome, queued())


def assert_is_one_outcome(outcome: Outcome) -> None:
    assert outcome.kind in OutcomeKind
    assert (outcome.error is None) == (outcome.kind is OutcomeKind.DELIVERED)
    error = outcome.error or ""
    assert len(error) <= ERROR_LENGTH
    assert error == one_line(error)
    assert "\0" not in error
    assert encodable(error)
    assert outcome.retry_after is None or timedelta(0) <= outcome.retry_after <= RETRY_AFTER_CAP


@law(status=st.integers(100, 599), headers=HEADERS, body=ANSWERS, preset=st.sampled_from([GENERIC, STRICT]))
def test_any_answer_has_one_outcome(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, preset: Preset
) -> None:
    outcome = understood(status, headers, body, preset)
    assert outcome.status_code == status
    assert_is_one_outcome(outcome)


@pytest.mark.parametrize("key", ["succeeded", "errors"])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_an_answer_of_any_depth_has_one_outcome(key: str, opened: str, closed: str) -> None:
    """At some of these depths, Python can parse JSON but not serialise it again."""
    for depth in (*range(900, 1010), 10_000):
        body = f'{{"succeeded": 0, "{key}": {opened * depth}1{closed * depth}}}'.encode()
        assert_is_one_outcome(understood(200, [], body))
        assert_is_one_outcome(understood(400, [], body))


@law(
    start=st.sampled_from([b"", b'{"errors": ', b'{"errors": "', b'{"errors": [']),
    piece=st.binary(min_size=1) | ANSWERS,
)
def test_no_answer_takes_long_to_interpret(start: bytes, piece: bytes) -> None:
    """The limit is a hundred times the CPU time for plain words. Backtracking would take thousands of times as long."""
    words = b'{"errors": "' + b"plain words " * 5400 + b'"}'
    body = (start + piece * (ANSWER_LIMIT // max(len(piece), 1)))[:ANSWER_LIMIT]
    taken, for_words = (cpu_seconds(partial(understood, 400, [], text)) for text in (body, words))
    assert taken < 100 * max(for_words, 1e-3)


@law(status=st.integers(0, 1200), headers=HEADERS, body=ANSWERS, rest=st.binary() | st.just(b""))
def test_any_bytes_from_the_server_have_one_outcome(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, rest: bytes
) -> None:
    head = b"\r\n".join([b"HTTP/1.1 %d Whatever" % status, *(name + b": " + value for name, value in headers)])
    with Hostile(then_close(head + rest + b"\r\n\r\n" + body)) as server:
        assert_is_one_outcome(deliver(gateway_settings(server.url)))


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@law(seconds=st.integers(0, 10**30), zeros=st.integers(0, 5000))
def test_retry_after_in_seconds_is_exact(seconds: int, zeros: int) -> None:
    wait = parse_retry_after("0" * zeros + str(seconds), NOON)
    assert wait == timedelta(seconds=min(seconds, RETRY_AFTER_CAP // timedelta(seconds=1)))


@law(until=st.datetimes(EPOCH.replace(tzinfo=None)) | st.timedeltas(-RETRY_AFTER_CAP, RETRY_AFTER_CAP))
def test_retry_after_as_a_date_is_exact(until: datetime | timedelta) -> None:
    then = NOON + until if isinstance(until, timedelta) else until.replace(tzinfo=UTC)
    then = then.replace(microsecond=0)
    wait = parse_retry_after(format_datetime(then, usegmt=True), NOON)
    assert wait == max(timedelta(0), min(then - NOON, RETRY_AFTER_CAP))


DAY, ERA = "[0-9]{4,6}-[0-9]{2}-[0-9]{2}", "( BC)?"
CLOCK, ZONE = "[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?", "[+-][0-9]{2}(:[0-9]{2}){0,2}"
WRITTEN_BY_A_SERVER = {
    "date": f"-?infinity|{DAY}{ERA}",
    "time": CLOCK,
    "timetz": f"{CLOCK}{ZONE}",
    "timestamp": f"-?infinity|{DAY} {CLOCK}{ERA}",
    "timestamptz": f"-?infinity|{DAY} {CLOCK}{ZONE}{ERA}",
    "interval": f"-?infinity|(-?[0-9]{{1,9}} (year|mon|day)s? ){{0,3}}-?{CLOCK}",
}
HELD = {kind: st.from_regex(sample, fullmatch=True).map(str.encode) for kind, sample in WRITTEN_BY_A_SERVER.items()}


@law(value=st.sampled_from(BEYOND_PYTHON).flatmap(lambda kind: st.tuples(st.just(kind), HELD.get(kind, st.binary()))))
def test_a_servers_value_is_read_as_a_value_or_a_text(value: tuple[str, bytes]) -> None:
    kind, data = value
    oid = psycopg.adapters.types[kind].oid
    usual = psycopg.adapters.get_loader(oid, Format.TEXT)
    assert usual is not None
    _or_text(usual)(oid).load(data)


@law(text=FROM_A_DATABASE | st.text("HTTP 0123456789.,:@a-…"))
def test_only_the_status_is_a_number_in_a_cause(text: str) -> None:
    assert not re.search(r"\d", re.sub(r"(?i)\bHTTP \d{3}\b", "", cause(text)))


BLOCK = block(JOB)
LINES = st.one_of(
    FROM_A_DATABASE,
    st.sampled_from([BEGIN + CONFIG, BEGIN + "/srv/other.toml", END, *BLOCK.splitlines(), "RUN=retrycli run-once"]),
    st.builds("{} {}".format, st.sampled_from(["*/5 * * * *", "@hourly", "1 2"]), FROM_A_DATABASE),
    st.builds("* * * * * {} retrycli {} run-once {}".format, FROM_A_DATABASE, FROM_A_DATABASE, FROM_A_DATABASE),
)
CRONTABS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", ""])).map("".join), max_size=8).map("".join)


@law(text=CRONTABS, system=st.booleans())
def test_a_found_block_is_part_of_its_crontab(text: str, *, system: bool) -> None:
    try:
        found = block_in(text, CONFIG, system=system, title="", owner="")
    except ConfigurationError:
        assert BEGIN + CONFIG in text
    else:
        assert found is None or found.text in text


@law(text=CRONTABS)
def test_adding_and_removing_a_block_restores_the_crontab(text: str) -> None:
    try:
        without = with_block(text, CONFIG, "")
    except ConfigurationError:
        assert BEGIN + CONFIG in text
        return
    installed = with_block(text, CONFIG, BLOCK)
    assert BLOCK in installed
    assert with_block(installed, CONFIG, "") in {without, without + "\n"}


@law(before=CRONTABS, after=CRONTABS)
def test_a_block_is_removed_between_any_lines(before: str, after: str) -> None:
    before = "".join(f"{line}\n" for line in before.split("\n") if BEGIN + CONFIG not in line)
    assert with_block(before + BLOCK + after, CONFIG, "") == before + after


DRAFTS = st.fixed_dictionaries(
    {"subject": FROM_A_DATABASE | st.none() | st.integers(), "body": FROM_A_DATABASE | st.none() | st.binary()},
    optional={"recipient_email": FROM_A_DATABASE | st.none()},
)


@law(row=DRAFTS)
def test_an_unedited_row_is_unchanged(row: dict[str, object]) -> None:
    draft = EditableMessage.of(row)
    assert draft.with_text(draft.as_text()) == draft


EDITED = ANY_TEXT | st.builds(
    "Subject: {}{}{}".format, ANY_TEXT, st.sampled_from(["\n\n", "\r\n\r\n", "\n \n"]), ANY_TEXT | st.just("\ud800")
)


@law(row=DRAFTS, text=EDITED)
def test_an_edited_text_can_be_sent_or_is_refused(row: dict[str, object], text: str) -> None:
    before = EditableMessage.of(row)
    try:
        after = before.with_text(text)
        after.check(before)
    except NotEdited as error:
        said = str(error)
        assert "othing was written" in said
    else:
        assert encodable(after.subject + after.body)
        assert len(after.subject.splitlines()) <= 1
        assert not any("\n" in line for line in difference(before, after))
