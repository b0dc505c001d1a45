"""Loading settings: sources and their precedence, invalid values, and secrets that are never shown."""

from __future__ import annotations

import ast
import os
import re
import traceback
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

import retrycli
from retrycli.config import SettingsModel, secret_text, template
from retrycli.config.loader import PATHS, SECRETS, Loaded, candidates, load
from retrycli.config.settings import Settings
from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import MessageType
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy
from tests.users import OURS, THEIRS, as_user, open_place

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hush-hush"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate working directory, so that the tests find no existing retrycli.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(toml: str = "", **environment: str) -> Loaded:
    """Load ``toml`` from a file, with these environment variables."""
    file = Path.cwd() / "named.toml"
    file.write_text(toml, encoding="utf-8")
    return load(file, environment)


def refusal(toml: str = "", **environment: str) -> str:
    """Return the error that loading these settings raises."""
    with pytest.raises(ConfigurationError) as raised:
        read(toml, **environment)
    return str(raised.value)


def setting(settings: Settings, key: str) -> object:
    """Return the value of a dotted key."""
    return reduce(getattr, key.split("."), settings)


def names(section: type[SettingsModel]) -> Iterator[str]:
    """Yield the names of the settings in a section, and in the sections in it."""
    for name, field in section.model_fields.items():
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        inner = [part for part in parts if issubclass(part, SettingsModel)]
        for part in inner:
            yield from names(part)
        if not inner:
            yield name


def test_each_setting_is_read() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in Path(retrycli.__file__).parent.rglob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    from_files = {f"{key.rpartition('.')[2]}_file" for key in SECRETS}  # the loader reads them for all secrets
    assert {*names(Settings)} - read <= from_files


def test_the_defaults_are_valid_and_the_same_in_policy_and_breaker() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()
    assert Settings().policies == dict.fromkeys(MessageType, RetryPolicy())
    assert Settings().breaker.rules == BreakerRules()


def test_each_value_other_than_a_default_names_its_source(folder: Path) -> None:
    toml = "[run]\nconcurrency = 4\nlimit = 100\n[schedule.types.supplier]\nmax_retries = 3\n"
    loaded = read(toml, RETRYCLI_RUN__CONCURRENCY="2", TICKETING_API_BASE_URL="https://tickets.example.com")
    assert loaded.settings.file == folder / "named.toml"
    assert loaded.sources == {
        "run.concurrency": "environment RETRYCLI_RUN__CONCURRENCY",
        "run.limit": f"file {folder / 'named.toml'}",
        "schedule.types.supplier.max_retries": f"file {folder / 'named.toml'}",
        "gateway.base_url": "environment TICKETING_API_BASE_URL",
    }


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("RETRYCLI_DATABASE__AUTO_UPGRADE", "false", "database.auto_upgrade", False),
        ("RETRYCLI_SCHEDULE__MAX_RETRIES", "3", "schedule.max_retries", 3),
        ("RETRYCLI_SCHEDULE__BACKOFF", "linear", "schedule.backoff", BackoffKind.LINEAR),
        ("RETRYCLI_SCHEDULE__WAITS_MINUTES", " 5, 7.5 ,,20,", "schedule.waits_minutes", (5, 7.5, 20)),
        ("RETRYCLI_SCHEDULE__WINDOWS", "[sat 9:00-12:00, ]", "schedule.windows", ("sat 9:00-12:00",)),
        ("RETRYCLI_GATEWAY__CA_FILE", "certs/ca.pem", "gateway.ca_file", Path("certs/ca.pem")),
    ],
)
def test_the_environment_can_set_every_kind_of_value(variable: str, text: str, key: str, value: object) -> None:
    assert setting(read("", **{variable: text}).settings, key) == value


OLD, NEW = "TICKETING_API_BASE_URL", "RETRYCLI_GATEWAY__BASE_URL"


@pytest.mark.parametrize(
    ("environment", "name"),
    [({OLD: "https://old"}, OLD), ({OLD: "https://old", NEW: "https://new"}, NEW), ({OLD: ""}, "")],
)
def test_the_old_name_of_the_base_url_overrides_the_file_and_the_new_name_overrides_both(
    folder: Path, environment: dict[str, str], name: str
) -> None:
    loaded = read('[gateway]\nbase_url = "https://file"\n', **environment)
    assert loaded.settings.gateway.base_url == environment.get(name, "https://file")
    assert loaded.sources["gateway.base_url"] == (f"environment {name}" if name else f"file {folder / 'named.toml'}")


def test_only_the_processs_own_variables_with_the_prefix_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("[run]\n", PATH="/bin", RETRY="1", retrycli_run__limit="5", XRETRYCLI_RUN__LIMIT="5").sources == {
        "run": f"file {Path.cwd() / 'named.toml'}"
    }
    assert read("[run]\n", RETRYCLI_RUN__LIMIT="5").settings.run.limit == 5
    monkeypatch.setenv("RETRYCLI_RUN__LIMIT", "5")
    assert load(Path("named.toml")).settings.run.limit == 5
    assert load(Path("named.toml"), {}).settings.run.limit is None


def test_a_path_through_a_symbolic_link_and_back_keeps_its_meaning(folder: Path) -> None:
    (folder / "there/deep").mkdir(parents=True)
    (folder / "link").symlink_to("there/deep")
    for place in (folder, folder / "there"):
        (place / "desk.toml").touch()
    found = [load(folder / name, {}).settings.file for name in ("link/../desk.toml", "there/../desk.toml")]
    assert found == [folder / "link/../desk.toml", folder / "desk.toml"]


@pytest.mark.skipif(Path("/etc/retrycli/retrycli.toml").exists(), reason="this machine has a configuration")
def test_without_a_file_the_defaults_apply() -> None:
    loaded = load(None, {})
    assert (loaded.settings.file, loaded.settings, loaded.sources) == (None, Settings(), {})


def test_a_named_file_precedes_the_variable_then_the_directory_then_the_users(folder: Path) -> None:
    for limit, name in enumerate(["retrycli.toml", "variable.toml", "named.toml", "retrycli/retrycli.toml"], start=1):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"[run]\nlimit = {limit}\n", encoding="utf-8")
    environment = {"RETRYCLI_CONFIG": str(folder / "variable.toml"), "XDG_CONFIG_HOME": str(folder)}
    assert load(folder / "named.toml", environment).settings.run.limit == 3
    loaded = load(None, environment)
    assert (loaded.settings.run.limit, [*loaded.sources]) == (2, ["run.limit"]), "the file's name is not a setting"
    environment["RETRYCLI_CONFIG"] = ""
    assert load(None, environment).settings.run.limit == 1
    (folder / "retrycli.toml").unlink()
    assert load(None, environment).settings.run.limit == 4


@pytest.mark.parametrize(
    ("environment", "user"),
    [
        ({"HOME": "/home/ann", "XDG_CONFIG_HOME": "/conf"}, ["/conf/retrycli/retrycli.toml"]),
        ({"HOME": "/home/ann", "XDG_CONFIG_HOME": ""}, ["/home/ann/.config/retrycli/retrycli.toml"]),
        ({"HOME": ""}, []),
    ],
)
def test_files_are_searched_here_then_in_the_users_directory_then_in_etc(
    environment: dict[str, str], user: list[str]
) -> None:
    assert [*map(str, candidates(environment))] == ["retrycli.toml", *user, "/etc/retrycli/retrycli.toml"]


def test_a_folder_that_the_user_may_not_access_is_named_with_its_owner() -> None:
    """Without the file, the command would look for a database in the working directory."""
    with open_place() as place:
        (place / "retrycli").mkdir(0o700)
        os.chown(place / "retrycli", THEIRS, THEIRS)
        named = {"XDG_CONFIG_HOME": str(place)}
        with pytest.raises(ConfigurationError, match=rf"^can't access {place}/retrycli, .* such as {THEIRS} "):
            as_user(OURS, lambda: load(None, named))
        (place / "retrycli").rename(place / ".config")
        assert as_user(OURS, lambda: load(None, {"HOME": str(place)})).settings.file is None
        assert as_user(OURS, lambda: load(None, named | {"RETRYCLI_DATABASE__URL": "sqlite:///x.db"})).settings


@pytest.mark.parametrize("target", ["gone.toml", "retrycli.toml", "."], ids=["dangling", "loop", "folder"])
def test_a_path_that_is_not_a_file_is_named_and_ends_the_search(folder: Path, target: str) -> None:
    other = folder / ".config" / "retrycli" / "retrycli.toml"
    other.parent.mkdir(parents=True)
    other.touch()
    (folder / "retrycli.toml").symlink_to(target)
    with pytest.raises(ConfigurationError, match=rf"^{folder}/retrycli\.toml is not a regular file, or"):
        load(None, {"HOME": str(folder)})
    # The error about a missing file would suggest `init`, which would not replace this path.
    with pytest.raises(ConfigurationError, match=rf"^{folder}/retrycli\.toml \(--config\) is not a regular file, or"):
        load(folder / "retrycli.toml", {})


def test_a_missing_file_is_reported_with_what_names_it(folder: Path) -> None:
    """A mistyped path must not silently select another file."""
    (folder / "retrycli.toml").write_text("", encoding="utf-8")
    gone = folder / "gone.toml"
    for file, environment, name in ((gone, {}, "--config"), (None, {"RETRYCLI_CONFIG": str(gone)}, "$RETRYCLI_CONFIG")):
        with pytest.raises(ConfigurationError, match=re.escape(f"{gone} ({name})")):
            load(file, environment)


def test_a_named_file_that_cannot_be_looked_up_is_not_reported_as_missing(folder: Path) -> None:
    """An overlong name causes the error, because a missing permission would not stop root."""
    with pytest.raises(ConfigurationError, match=r"^can't access .* \(--config\): File name too long; check"):
        load(folder / ("x" * 300) / "retrycli.toml", {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[run]\nlimit = 1\nlimit = 2\n", "not valid TOML: "),
        (b"limit = " + b"1" * 5000, "not valid TOML: "),
        ("[run]\n".encode("utf-16"), "not valid UTF-8; save it as UTF-8"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"x" + b".x" * 5000 + b" = 1", "nested too deeply"),
    ],
    ids=["twice", "number", "encoding", "lists", "tables"],
)
def test_a_file_that_cannot_be_parsed_is_named(folder: Path, content: bytes, said: str) -> None:
    (folder / "broken.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^{folder / 'broken.toml'} is {said}"):
        load(folder / "broken.toml", {})


def test_a_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "bom.toml").write_text("[run]\nlimit = 1\n", encoding="utf-8-sig")
    assert load(folder / "bom.toml", {}).settings.run.limit == 1


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("speed = 4\n", "speed"),
        ("[schedule.types.supplier]\nmax_retrys = 4\n", "schedule.types.supplier.max_retrys"),
        # The interval between passes and its slack are the same for all message types.
        ("[schedule.types.internal]\nretry_interval_minutes = 5\n", "schedule.types.internal.retry_interval_minutes"),
        ("[schedule.types.supplier]\ndue_slack_seconds = 60\n", "schedule.types.supplier.due_slack_seconds"),
        ('[schedule.types.internal]\ntimezone = "UTC"\n', "schedule.types.internal.timezone"),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_a_command_that_lists_all(folder: Path, toml: str, key: str) -> None:
    source = f"file {folder / 'named.toml'}"
    assert refusal(toml) == f"{key} ({source}): no such setting. `retrycli manual settings` lists every setting"


def test_an_unknown_variable_or_message_type_is_named() -> None:
    for variable in ("RETRYCLI_RUN_LIMIT", "RETRYCLI_", "RETRYCLI_GATWAY__TOKEN", "RETRYCLI_GATEWAY__NO__SUCH"):
        assert f"(environment {variable}): no such setting" in refusal("", **{variable: "4"})
    assert refusal("[schedule.types.vendor]\nmax_retries = 4\n").startswith("schedule.types.vendor (file")
    variable = "RETRYCLI_SCHEDULE__TYPES__VENDOR__FACTOR"
    assert refusal(**{variable: "2"}).startswith(f"schedule.types.vendor (environment {variable})")


def test_all_problems_are_reported_together() -> None:
    said = refusal("[run]\nlimit = 0\nspeed = 1\n", RETRYCLI_SCHEDULE__FACTOR="big")
    assert "run.limit (file" in said
    assert "run.speed (file" in said
    assert "schedule.factor (environment RETRYCLI_SCHEDULE__FACTOR)" in said


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('[schedule]\nbackoff = "fibonacci"\n', "schedule.backoff"),
        ("[schedule]\nwaits_minutes = [5, 0]\n", "schedule.waits_minutes"),
        ("[schedule]\nwaits_minutes = 5\n", "schedule.waits_minutes"),
        ('[schedule]\nwindows = ["Mon 08:00-08:00"]\n', "schedule.windows"),
        ("[schedule]\nwindows = [8]\n", "schedule.windows"),
        ('[schedule.types.internal]\nwindows = ["tea"]\n', "schedule.types.internal.windows"),
        ('[schedule]\ntimezone = "Mars/Olympus"\n', "schedule.timezone"),
        ('[schedule]\ntimezone = "/etc/localtime"\n', "schedule.timezone"),
        ('[schedule]\ntimezone = ""\n', "schedule.timezone"),
        ('[gateway]\nlogin_path = "login"\n', "gateway.login_path"),
        ("[breaker]\nprobe_minutes = []\n", "breaker.probe_minutes"),
        ('[logging]\nlevel = "LOUD"\n', "logging.level"),
        ('[database]\nauto_upgrade = "perhaps"\n', "database.auto_upgrade"),
        ('[database]\ntable = "messages; drop table x"\n', "database.table"),
        ('[database]\ntable = "a.b.c"\n', "database.table"),
    ],
)
def test_an_invalid_value_is_reported_with_its_key_and_file(folder: Path, toml: str, key: str) -> None:
    said = refusal(toml)
    assert said.startswith(key)
    assert f"(file {folder / 'named.toml'}): " in said


@pytest.mark.parametrize(
    ("key", "below", "least", "most", "above"),
    [
        ("schedule.retry_interval_minutes", 0, 0.1, 525_600, 525_601),
        ("schedule.max_retries", 0, 1, 1000, 1001),
        ("schedule.base_minutes", 0, 1.1, 525_600, 525_601),
        ("schedule.cap_minutes", 0, 1.1, 525_600, 525_601),
        ("schedule.factor", 0.9, 1, 100, 101),
        ("schedule.jitter", -0.1, 0, 1, 1.1),
        ("schedule.due_slack_seconds", -1, 0, 899, 3601),
        ("schedule.expires_after_hours", 0, 0.1, 876_000, 876_001),
        ("schedule.types.supplier.max_retries", 0, 1, 1000, 1001),
        ("schedule.types.supplier.factor", 0.9, 1, 100, 101),
        ("schedule.types.supplier.jitter", -0.1, 0, 1, 1.1),
        ("gateway.connect_timeout_seconds", 0, 0.1, 300, 301),
        ("gateway.request_timeout_seconds", 0, 0.1, 3600, 3601),
        ("gateway.immediate_retries", -1, 0, 5, 6),
        ("gateway.unknown_limit", -1, 0, 100, 101),
        ("gateway.attachments_limit_mb", 0, 0.1, 1000, 1001),
        ("run.concurrency", 0, 1, 512, 513),
        ("run.deadline_minutes", 0, 0.1, 525_600, 525_601),
        ("run.limit", 0, 1, 2**31, 2**31 + 1),
        ("run.rate_per_second", 0, 0.1, 1_000_000, "inf"),
        ("run.wait_lock_seconds", -1, 0, 3600, 3601),
        ("run.retention_days", 0, 1, 36_500, 36_501),
        ("breaker.failures", 0, 1, 1000, 1001),
    ],
)
def test_a_number_is_accepted_within_its_bounds_and_refused_beyond(
    key: str, below: float, least: float, most: float, above: object
) -> None:
    """A jitter of 1 is valid here, because the fixed wait of 15 minutes is too short for jitter to apply."""
    section, _, name = key.rpartition(".")
    head = f"[{section}]\n" + ('backoff = "fixed"\n' if name == "jitter" else "")
    for good in (least, most):
        read(f"{head}{name} = {good}\n")
    for bad in (below, above):
        assert refusal(f"{head}{name} = {bad}\n").startswith(f"{key} (file")


def test_an_invalid_or_empty_list_in_the_environment_is_named() -> None:
    said = refusal(RETRYCLI_SCHEDULE__WAITS_MINUTES="5,soon")
    assert said.startswith("schedule.waits_minutes.1 (environment RETRYCLI_SCHEDULE__WAITS_MINUTES): ")
    assert refusal(RETRYCLI_BREAKER__PROBE_MINUTES="").startswith("breaker.probe_minutes")


def test_a_value_in_place_of_a_section_is_refused() -> None:
    assert refusal("database = 3\n").startswith("database (file")
    assert refusal("run = 4\n", RETRYCLI_RUN__LIMIT="5").startswith("run.limit (environment RETRYCLI_RUN__LIMIT)")
    assert refusal("[run]\nlimit = 5\n", RETRYCLI_RUN="4").startswith("run (environment RETRYCLI_RUN) is a section")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("table", name) for name in ("app.pending_messages", "Messages2", "nachrichten_ü", "tabEmail Queue")),
        *(("url", f"sqlite://{end}") for end in ("", "/", "/:memory:", "/file:x?uri=true")),
        *(
            ("url", url)
            for url in ("sqlite+pysqlite:////var/tickets.db", "postgresql+psycopg://app@db.example.com/app")
        ),
    ],
)
def test_tables_with_a_schema_and_both_databases_are_accepted_as_they_are(key: str, value: str) -> None:
    assert getattr(read(f'[database]\n{key} = "{value}"\n').settings.database, key) == value


@pytest.mark.parametrize("url", ["postgres://app@db/app", "tickets.db", "sqlite:tickets.db", "xsqlite:///x.db", ""])
def test_other_databases_are_refused_with_an_example(url: str) -> None:
    assert "sqlite:///FILE or postgresql://USER@HOST/NAME" in refusal(f'[database]\nurl = "{url}"\n')


@pytest.mark.parametrize(("scheme", "path"), [("sqlite", "data/tickets.db"), ("sqlite+pysqlite", "../tickets.db")])
@pytest.mark.parametrize("directory", ["etc", "a\\1b"])
def test_a_relative_sqlite_path_is_relative_to_its_file(folder: Path, scheme: str, path: str, directory: str) -> None:
    """Cron starts the command in another working directory, so the path must not depend on the working directory."""
    file = folder / directory / "retrycli.toml"
    file.parent.mkdir()
    file.write_text(f'[database]\nurl = "{scheme}:///{path}"\n', encoding="utf-8")
    expected = f"{scheme}:///{folder}/{directory}/{path}"
    assert load(file, {}).settings.database.url == expected
    assert load(file.relative_to(folder), {}).settings.database.url == expected


@pytest.mark.parametrize("toml", ["", '[database]\ntable = "outbox"\n'])
def test_without_a_database_setting_the_default_is_beside_the_file(folder: Path, toml: str) -> None:
    """Cron starts the command in a folder other than the file's. A URL from the environment stays relative."""
    file = folder / "etc" / "retrycli.toml"
    file.parent.mkdir()
    file.write_text(toml, encoding="utf-8")
    loaded = load(file, {})
    assert loaded.settings.database.url == f"sqlite:///{folder}/etc/ticketing_agent.db"
    (shown,) = (line for line in template.shown(loaded) if line[0] == "database.url")
    assert shown == ("database.url", loaded.settings.database.url, "default")
    assert load(file, {"RETRYCLI_DATABASE__URL": "sqlite:///here.db"}).settings.database.url == "sqlite:///here.db"


USED_LATER = sorted(key for key in PATHS if key.removesuffix("_file") not in SECRETS)
"""The paths of files that are not read while the settings are loaded."""


@pytest.mark.parametrize("key", USED_LATER)
def test_a_path_is_relative_to_its_file_or_absolute_but_not_empty(folder: Path, key: str) -> None:
    """An empty path would resolve to the settings' folder, and attachments from there could expose its secrets."""
    section, _, name = key.rpartition(".")
    for path, expected in (("here/it.prom", folder / "here/it.prom"), ("/there/it.prom", Path("/there/it.prom"))):
        assert setting(read(f'[{section}]\n{name} = "{path}"\n').settings, key) == expected
    variable = "RETRYCLI_" + key.upper().replace(".", "__")
    for said in (refusal(f'[{section}]\n{name} = ""\n'), refusal(**{variable: ""})):
        assert re.match(rf"{key} \(.*\): the path is empty; write a path, or remove the key", said)


def test_a_preset_is_a_file_beside_the_configuration_or_a_name(folder: Path) -> None:
    for preset, expected in (("mine.toml", str(folder / "mine.toml")), ("generic", "generic")):
        assert read(f'[gateway]\npreset = "{preset}"\n').settings.gateway.preset == expected


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://tickets.example.com/api/v1//", "https://tickets.example.com/api/v1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://Tickets.example.com/", "https://Tickets.example.com"),
    ],
)
def test_a_base_url_loses_its_trailing_slash(url: str, kept: str) -> None:
    assert read(RETRYCLI_GATEWAY__BASE_URL=url).settings.gateway.base_url == kept


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *(
            (url, "must have a supported scheme and a host")
            for url in ("", "//h", "ftp://h", "https:///api", "https://:1")
        ),
        *((f"https://{end}", "invalid URL or port") for end in ("[::1", "h:http", "h:70000")),
        *((f"https://{user}@h", "gateway.password_file") for user in ("ann", f"ann:{SECRET}")),
        *((f"https://h/{end}", "must not have a query or a fragment") for end in ("?key=1", "api#top", "?", "#")),
        *((url, "spaces, line breaks or non-ASCII") for url in (" https://h", "https://h\r", "https://h/a\nb")),
        (f"https://tickets.example.com/{'a' * 228}", "at most 255 characters"),
    ],
)
def test_an_unusable_base_url_is_refused_with_a_remedy(url: str, said: str) -> None:
    words = refusal(RETRYCLI_GATEWAY__BASE_URL=url)
    assert words.startswith("gateway.base_url (environment RETRYCLI_GATEWAY__BASE_URL): ")
    assert said in words


EVERY_RULE = """
max_retries = 4
backoff = "list"
base_minutes = 7
factor = 3
cap_minutes = 70
jitter = 0.1
waits_minutes = [5, 90]
expires_after_hours = 48
"""
POLICY = RetryPolicy(
    Backoff(
        BackoffKind.LIST,
        base=timedelta(minutes=7),
        factor=3,
        cap=timedelta(minutes=70),
        spread=0.1,
        waits=(timedelta(minutes=5), timedelta(minutes=90)),
    ),
    max_retries=4,
    expires_after=timedelta(hours=48),
)


def test_each_schedule_setting_reaches_the_policy_of_all_message_types_or_of_one() -> None:
    assert read(f"[schedule]{EVERY_RULE}").settings.policies == dict.fromkeys(MessageType, POLICY)
    of_one = dict.fromkeys(MessageType, RetryPolicy()) | {MessageType.SUPPLIER: POLICY}
    assert read(f"[schedule.types.supplier]{EVERY_RULE}").settings.policies == of_one
    both = read(
        f"[schedule]{EVERY_RULE}[schedule.types.internal]\nmax_retries = 2\n[gateway]\nunknown_limit = 1\n",
        RETRYCLI_SCHEDULE__TYPES__INTERNAL__MAX_RETRIES="3",
    )
    common = POLICY._replace(unknown_limit=1)
    assert both.settings.policies == dict.fromkeys(MessageType, common) | {
        MessageType.INTERNAL: common._replace(max_retries=3)
    }


def test_a_message_type_overrides_the_delivery_windows_and_not_their_zone() -> None:
    toml = """
        [schedule]
        windows = ["Mon-Fri 08:00-18:00"]
        timezone = "Europe/Berlin"
        [schedule.types.supplier]
        windows = ["daily 06:00-22:00", "Sat 00:00-24:00"]
        [schedule.types.internal]
        windows = []
    """
    zone = ZoneInfo("Europe/Berlin")
    assert read(toml).settings.schedule.delivery_windows == {
        MessageType.CUSTOMER: DeliveryWindows.parse(["Mon-Fri 08:00-18:00"], zone),
        MessageType.SUPPLIER: DeliveryWindows.parse(["daily 06:00-22:00", "Sat 00:00-24:00"], zone),
    }
    assert read().settings.schedule.delivery_windows == {}
    assert read('[schedule]\ntimezone = "UTC"\n').settings.schedule.delivery_windows == {}


def test_config_show_distinguishes_no_override_from_an_override_without_windows() -> None:
    toml = '[schedule]\nwindows = ["daily 06:00-22:00", "Sat 00:00-24:00"]\n[schedule.types.internal]\nwindows = []\n'
    values = {key: value for key, value, _ in template.shown(read(toml))}
    assert values["schedule.windows"] == "daily 06:00-22:00, Sat 00:00-24:00"
    assert {key: value for key, value in values.items() if key.startswith("schedule.types")} == {
        "schedule.types.internal.windows": "[]"
    }


@pytest.mark.parametrize(
    ("toml", "key", "minutes"),
    [
        ("[schedule]\nbase_minutes = 1\n", "schedule.base_minutes", "1"),
        ("[schedule]\ncap_minutes = 1\n", "schedule.base_minutes", "1"),
        ('[schedule]\nbackoff = "linear"\nbase_minutes = 0.5\n', "schedule.base_minutes", "0.5"),
        ('[schedule]\nbackoff = "list"\nwaits_minutes = [5, 0.5, 10]\n', "schedule.waits_minutes", "0.5"),
        ("[schedule]\nbase_minutes = 60\njitter = 1\n", "schedule.base_minutes", "0"),  # a jitter of -1 leaves no wait
        # The waits of an hour become shorter than the first one.
        ("[schedule]\njitter = 0.99\n", "schedule.base_minutes", "0.6"),
        ("[schedule.types.supplier]\nbase_minutes = 1\n", "schedule.types.supplier.base_minutes", "1"),
        (
            '[schedule]\nwaits_minutes = [1]\n[schedule.types.supplier]\nbackoff = "list"\n',
            "schedule.types.supplier.waits_minutes",
            "1",
        ),
    ],
)
def test_a_wait_within_the_slack_is_refused(toml: str, key: str, minutes: str) -> None:
    """A message with such a wait would be due again in the pass that set the wait."""
    assert (
        f"{key}: the shortest wait, after cap and jitter, is {minutes} min; it must be longer than "
        "schedule.due_slack_seconds (60 s)"
    ) in refusal(toml)


def test_the_slack_is_configurable() -> None:
    said = "longer than schedule.due_slack_seconds"
    assert said in refusal("[schedule]\ndue_slack_seconds = 900\n")
    assert said in refusal("[schedule]\nbase_minutes = 1e-300\ndue_slack_seconds = 0\n")


@pytest.mark.parametrize(
    "toml",
    [
        "[schedule]\nbase_minutes = 1.1\n",
        "[schedule]\ndue_slack_seconds = 899\n",
        "[schedule]\nbase_minutes = 1\ndue_slack_seconds = 0\n",
        "[schedule]\nwaits_minutes = [1]\n",  # no schedule uses this list
        '[schedule]\nbackoff = "linear"\ncap_minutes = 1\n',  # the linear schedule has no cap
    ],
)
def test_a_wait_beyond_the_slack_is_accepted(toml: str) -> None:
    assert read(toml).settings.schedule != Settings().schedule


@pytest.mark.parametrize("name", ["username", "password", "token"])
def test_a_secret_is_read_from_a_file_that_may_begin_with_a_byte_order_mark(folder: Path, name: str) -> None:
    toml = f'[gateway]\n{name}_file = "secret"\n'
    secret, key, file = folder / "secret", f"gateway.{name}", f"file {folder / 'named.toml'}"
    assert refusal(toml) == f"{key}_file: can't read {secret}: No such file or directory"
    secret.write_text(f"{SECRET}\n", encoding="utf-8-sig")
    loaded = read(toml)
    assert secret_text(getattr(loaded.settings.gateway, name)) == SECRET
    assert loaded.sources[key] == f"file {secret}"
    variable = f"RETRYCLI_GATEWAY__{name.upper()}"
    said = f"both {key} (environment {variable}) and {key}_file ({file}) are set; keep one"
    assert refusal(toml, **{variable: "another secret"}) == said


def test_a_secret_file_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "token").write_bytes(b"\xff\xfe")
    for name in ("token", "to\\u0000ken"):
        assert "the file is not valid UTF-8" in refusal(f'[gateway]\ntoken_file = "{name}"\n')


def test_systemd_credentials_override_the_file_and_the_environment_overrides_them(folder: Path) -> None:
    for name, content in {
        "gateway.token": f"{SECRET}\n",
        "gateway.username": "ann\n",
        "gateway.password": f" {SECRET}2\r\n",
        "database.url": "postgresql://app:pw@db/app\n",
        "gateway.base_url": "https://not.a.secret.example.com",
        "other.service": "x",
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    toml, place = '[gateway]\nusername = "file"\n', {"CREDENTIALS_DIRECTORY": str(folder)}
    loaded = read(toml, **place)
    gateway = loaded.settings.gateway
    secrets = [secret_text(secret) for secret in (gateway.token, gateway.username, gateway.password)]
    assert secrets == [SECRET, "ann", f"{SECRET}2"]
    assert (loaded.settings.database.url, gateway.base_url) == ("postgresql://app:pw@db/app", None)
    assert loaded.sources["gateway.token"] == f"credential {folder / 'gateway.token'}"
    assert read(toml, **place, RETRYCLI_GATEWAY__USERNAME="env").settings.gateway.username == "env"


def test_an_unusable_credentials_directory_is_named(folder: Path) -> None:
    long = folder / ("x" * 300)
    said = refusal(CREDENTIALS_DIRECTORY=str(long))
    assert said == f"database.url: can't access {long / 'database.url'}: File name too long"


MAIL, CHAT = "mailto://ann:pw@mail.example.com?to=a@x.test,b@x.test", "slack://T/B/C"


def told(loaded: Loaded) -> list[str]:
    """Return the notification URLs without masking."""
    return [url.get_secret_value() for url in loaded.settings.notify.urls]


def test_notification_urls_are_a_list_or_a_text_with_white_space(folder: Path) -> None:
    assert told(read(f'[notify]\nurls = ["{MAIL}", "{CHAT}"]\n')) == [MAIL, CHAT]
    text = f"  {MAIL}\n\n# {CHAT}\n\t{CHAT}\r\n"
    assert told(read("", RETRYCLI_NOTIFY__URLS=text)) == [MAIL, CHAT]
    (folder / "urls").write_text(text, encoding="utf-8")
    assert told(read('[notify]\nurls_file = "urls"\n')) == [MAIL, CHAT]
    assert told(read("", RETRYCLI_NOTIFY__URLS=" \n# none yet\n")) == []
    said = "notify.urls (environment RETRYCLI_NOTIFY__URLS): URL 2 is invalid"
    assert said in refusal(RETRYCLI_NOTIFY__URLS=f"{MAIL} ops@x.test {CHAT}")


def test_a_ping_url_loses_its_trailing_slash() -> None:
    url = read('[notify]\nping_url = "https://hc.example/uuid/"\n').settings.notify.ping_url
    assert secret_text(url) == "https://hc.example/uuid"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ana:hu/sh@hu?sh@db/desk", "postgresql://ana:********@db/desk"),
        ("postgresql://ana@corp:hush-hush@db/desk", "postgresql://ana@corp:********@db/desk"),
        (
            "postgresql://db/desk?password=hush-hush&sslpassword=hush-hush&sslmode=require&oauth_client_secret=hush-hush",
            "postgresql://db/desk?password=********&sslpassword=********&sslmode=require&oauth_client_secret=********",
        ),
        (
            "postgresql://db/desk?Passwrd=hush-hush&scram_client_key=hush-hush&sslkey=/a",
            "postgresql://db/desk?Passwrd=********&scram_client_key=********&sslkey=/a",
        ),
        ("postgresql://ana:hush-hush/desk", "postgresql://ana:********/desk"),
        *[(url, url) for url in ("sqlite:////var/lib/a@b/app.db", "postgresql://ana@db:5432/desk?passfile=x")],
        *[(url, url) for url in ("postgresql://db:5432,[::1]:5433/desk", "postgresql://[::1]:5432/desk")],
    ],
)
def test_settings_are_shown_without_their_secrets(url: str, shown: str) -> None:
    secrets = {
        "GATEWAY__TOKEN": SECRET,
        "GATEWAY__PASSWORD": SECRET,
        "NOTIFY__PING_URL": f"https://hc.example/{SECRET}",
    }
    given = secrets | {"DATABASE__URL": url, "NOTIFY__URLS": f"{MAIL} json://{SECRET}"}
    loaded = read("", **{f"RETRYCLI_{name}": value for name, value in given.items()})
    values = {key: value for key, value, _ in template.shown(loaded)}
    masked = ("gateway.token", "gateway.password", "notify.ping_url")
    assert [values[key] for key in ("database.url", "notify.urls")] == [shown, "********, ********"]
    assert {values[key] for key in masked} == {"********"}
    for text in (repr(loaded), str(loaded.settings), repr(loaded.settings.gateway), str(loaded.sources)):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("toml", "environment"),
    [
        (f'[gateway]\ntoken = ["{SECRET}"]\n', {}),
        (f'[gateway]\ntoken = "{SECRET}"\nauth = "{SECRET}"\n', {}),
        (f'[gateway]\ntoken = "{SECRET}\n', {}),
        (f'[gateway]\ntoken = "{SECRET}"\ntoken = "{SECRET}"\n', {}),
        (f'[database]\nurl = "mysql://app:{SECRET}@db/app"\n', {}),
        (f'gateway = "{SECRET}"\n', {}),
        ("", {"RETRYCLI_GATEWAY__TOKEN": SECRET, "RETRYCLI_RUN__LIMIT": "x"}),
        ("", {"RETRYCLI_GATEWAY__TOKEN__VALUE": SECRET}),
        ("", {"RETRYCLI_GATEWAY__TOKEN": SECRET, "RETRYCLI_GATEWAY__TOKEN_FILE": "named.toml"}),
        ("", {"RETRYCLI_GATEWAY__BASE_URL": f"https://ann:{SECRET}@tickets.example.com"}),
        ("", {"RETRYCLI_GATEWAY__BASE_URL": f"https://ann:{SECRET}/{SECRET}@tickets.example.com"}),
        ("", {"RETRYCLI_GATEWAY__BASE_URL": f"https://tickets\u2100ann:{SECRET}@example.com"}),
        (f'[notify]\nurls = ["json://h", ["{SECRET}"]]\n', {}),
        (f'[notify]\nurls = ["json://{SECRET}"]\nremind_hours = "{SECRET}"\n', {}),
        (f'[notify]\nping_url = "https://{SECRET}:x/"\n', {}),
        ("", {"RETRYCLI_NOTIFY__URLS": f"json://{SECRET}", "RETRYCLI_NOTIFY__URLS_FILE": "named.toml"}),
    ],
)
def test_no_error_shows_a_secret_with_or_without_its_traceback(toml: str, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(toml, **environment)
    assert SECRET not in str(raised.value)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_settings_made_without_a_file_do_not_show_an_invalid_secret() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"gateway": {"token": [SECRET], "auth": SECRET}})
    assert SECRET not in str(raised.value)


BY_MAIL = '[gateway]\nkind = "smtp"\nsender = "Support <support@example.com>"\n'
BY_PYTHON = '[gateway]\nkind = "python"\ncall = "desk.messages:send"\n'


@pytest.mark.parametrize(
    ("kind", "lines", "values"),
    [
        ("http", "[gateway]\n", {"call": "'a:b'", "sender": "'a@b'", "recipient": "'a@b'", "subject": "'x'"}),
        ("http", "[gateway]\n", {"starttls": "false"}),
        ("smtp", BY_MAIL, {"call": "'a:b'", "preset": "'x.toml'", "auth": "'none'", "token": "'x'", "verify": "true"}),
        ("python", BY_PYTHON, {"base_url": "'https://a.b'", "preset": "'zammad'", "token": "'x'", "sender": "'a@b'"}),
        ("python", BY_PYTHON, {"username": "'me'", "password": "'pw'", "login_path": "'/in'"}),
    ],
)
def test_a_setting_that_has_no_effect_is_refused(kind: str, lines: str, values: dict[str, str]) -> None:
    for key, value in values.items():
        said = refusal(f"{lines}{key} = {value}\n")
        assert f"gateway.{key} has no effect with gateway.kind = '{kind}'; remove gateway.{key}, or change" in said


@pytest.mark.parametrize("url", ["smtp://[::1]:25", "smtps://mail.example.com"])
def test_a_mail_server_is_a_host_with_an_optional_port(url: str) -> None:
    assert read(f'{BY_MAIL}base_url = "{url}"\n').settings.gateway.destination == url


@pytest.mark.parametrize("call", ["desk.messages:Service.send", "tür:ö", "_a:_b1"])
def test_the_destination_of_a_python_gateway_is_its_function(call: str) -> None:
    settings = read(f'[gateway]\nkind = "python"\ncall = "{call}"\n').settings
    assert settings.gateway.destination == settings.gateway.destination_if_set == f"python:{call}"
    assert [route.destination for route in settings.gateway.routes] == [f"python:{call}"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[gateway]\nauth = "bearer"\ntoken = ""\n', "needs gateway.token or gateway.token_file"),
        ('[gateway]\nauth = "basic"\n', "needs gateway.username or gateway.username_file"),
        ('[gateway]\nauth = "basic"\nusername = "ann"\n', "needs gateway.password or gateway.password_file"),
        ('[gateway]\nauth = "login"\n', "needs gateway.username or gateway.username_file"),
        ('[gateway]\nkind = "smtp"\n', "gateway.kind = 'smtp' needs gateway.sender"),
        ("[gateway]\nkind = []\n", "gateway.kind (file"),
        (BY_MAIL + 'base_url = "https://tickets.example.com"\n', "smtp://mail.example.com:587 or smtps://"),
        (BY_MAIL + 'base_url = "smtp://mail.example.com/x"\n', "gateway.base_url must not have a path"),
        (BY_MAIL + 'base_url = "smtp://me:pw@mail.example.com"\n', "the URL must not contain credentials"),
        (BY_MAIL + 'username = "me"\n', "gateway.username and gateway.password (or their _file keys) go together"),
        (BY_MAIL + 'password = "pw"\n', "gateway.username and gateway.password (or their _file keys) go together"),
        (BY_MAIL + 'recipient = "team"\n', "gateway.recipient (file"),
        (BY_MAIL + 'recipient = "té@b"\n', "must be ASCII"),
        (BY_MAIL + 'subject = "{subject!r}"\n', "gateway.subject (file"),
        (BY_MAIL + 'subject = "a\\nBcc: b"\n', "gateway.subject (file"),
        ('[gateway]\nkind = "python"\n', "gateway.kind = 'python' needs gateway.call"),
        *[
            (f'[gateway]\nkind = "python"\ncall = "{call}"\n', "write MODULE:FUNCTION, such as desk.messages:retry_fai")
            for call in ("", "desk:", ":send", "desk/a.py:send", "desk:send()", "desk:1", "a..b:c")
        ],
        (f'[gateway]\nkind = "python"\ncall = "a:{"b" * 239}"\n', "at most 240 characters"),
        *[
            (f'[{key}]\nbackoff = "python"\n', f"{key}.backoff is python, but {key}.call is not set")
            for key in ("schedule", "schedule.types.supplier")
        ],
        *[
            (f'[{key}]\nbackoff = "list"\n', f"{key}.backoff is list, but {key}.waits_minutes is empty")
            for key in ("schedule", "schedule.types.supplier")
        ],
        ('[schedule]\ncall = "waits"\n', "write MODULE:FUNCTION"),
    ],
)
def test_a_gateway_or_schedule_that_cannot_work_is_refused_with_a_remedy(toml: str, said: str) -> None:
    assert said in refusal(toml)


def test_the_applications_own_variable_does_not_disturb_a_python_gateway() -> None:
    loaded = read(BY_PYTHON, TICKETING_API_BASE_URL="https://tickets.example.com")
    assert loaded.settings.gateway.base_url is None
    assert "gateway.base_url" not in loaded.sources


def test_modules_are_in_the_folder_of_the_settings_file_or_in_a_named_one() -> None:
    folder = Path.cwd()
    assert read(BY_PYTHON).settings.gateway.modules_dir == folder
    own = read(BY_PYTHON + 'modules_dir = "../desk"\n').settings.gateway.modules_dir
    assert own == folder / "../desk"
    of_type = read('[gateway.supplier]\nkind = "python"\ncall = "desk:send"\n').settings.gateway
    assert of_type.of(MessageType.SUPPLIER).modules_dir == folder
    assert read('[schedule]\nbackoff = "python"\ncall = "waits:next_wait"\n').settings.gateway.modules_dir == folder
    assert read().settings.gateway.modules_dir is None


def test_a_type_may_have_a_function_for_its_waits() -> None:
    settings = read('[schedule.types.supplier]\nbackoff = "python"\ncall = "waits:next_wait"\n').settings
    found = {kind: policy.backoff for kind, policy in settings.policies.items()}
    assert found.pop(MessageType.SUPPLIER).function is not None
    assert set(found.values()) == {Backoff()}
    assert [call.key for call in settings.calls] == ["schedule.types.supplier.call"]
