"""Find the tables of a database that look like outgoing messages, by the names and types of their columns."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from retrycli.domain.known_table import KnownTable, RelationKind, TableColumn, ValueKind

ANY = ValueKind.ANY
WORDS = frozenset({ValueKind.TEXT, ANY})
STATUSES = frozenset({ValueKind.TEXT, ValueKind.INTEGER, ValueKind.BOOLEAN, ValueKind.ENUM, ANY})
TIMES = frozenset({ValueKind.TIME, ValueKind.TEXT, ANY})
NUMBERS = frozenset({ValueKind.INTEGER, ANY})
LISTS = frozenset({ValueKind.JSON})
TICKETS = frozenset({ValueKind.INTEGER, ValueKind.TEXT, ValueKind.UUID, ANY})
TYPES = frozenset({ValueKind.TEXT, ValueKind.ENUM, ANY})

PAYLOAD = "payload"  # stands for a column with a whole message, such as a JSON object; it is not a role


@dataclass(frozen=True, slots=True)
class _Hint:
    """What the column of a role looks like.

    Attributes:
        names: the names that it has in known tables, the most certain first.
        kinds: the kinds of value that suit the role.
        weight: how much the column contributes to the evidence that the table holds outgoing messages.
        endings: words at the end of a longer name, such as ``…_subject``.
    """

    names: str
    kinds: frozenset[ValueKind]
    weight: int
    endings: str = ""


# In the order in which roles choose their columns.
HINTS: Mapping[str, _Hint] = {
    "status": _Hint(
        "status state delivery_status delivery_state send_status sending_status send_state message_status status_name "
        "status_code outcome failed is_failed has_failed sent is_sent delivered is_delivered processed is_processed "
        "published is_published",
        STATUSES,
        3,
        "status state status_name",
    ),
    "retry_count": _Hint(
        "retry_count retries number_of_retries attempts attempt_count attempt tries try_count send_count send_attempts "
        "delivery_attempts errors_count error_count failure_count failures fail_count retry num_retries num_attempts",
        NUMBERS,
        3,
        "retry_count retries attempts attempt_count tries failures",
    ),
    "last_error": _Hint(
        "last_error error error_message last_error_message error_log failure_reason error_text error_msg "
        "failure_message last_failure error_details error_detail exception_info exception",
        WORDS,
        3,
        "error error_message failure_reason error_log",
    ),
    "sent_at": _Hint(
        "sent_at delivered_at sent sent_on date_sent sent_date delivered published_at processed_at dispatched_at "
        "completed_at finished_at",
        TIMES,
        2,
        "sent_at delivered_at",
    ),
    "created_at": _Hint(
        "created_at created created_on date_created create_date creation creation_date inserted_at added added_at "
        "queued_at enqueued_at occurred_at",
        TIMES,
        1,
    ),
    "updated_at": _Hint(
        "updated_at updated last_updated modified modified_at last_modified updated_on date_modified write_date",
        TIMES,
        0,
    ),
    "recipient_email": _Hint(
        "recipient_email recipient to_email email_to to to_address recipient_address mail_to to_addr recipients "
        "to_emails receiver_email receiver email address",
        WORDS,
        2,
        "recipient recipient_email recipients to_email email_to to_address email",
    ),
    "cc_emails": _Hint("cc_emails cc email_cc cc_email cc_addresses", LISTS, 0),
    "bcc_emails": _Hint("bcc_emails bcc email_bcc bcc_email bcc_addresses", LISTS, 0),
    "attachments": _Hint("attachments", LISTS, 0),
    "subject": _Hint("subject email_subject message_subject title", WORDS, 2, "subject"),
    "body": _Hint(
        "body message text content body_text text_body message_body message_text text_content msg body_plain "
        "plain_body plain_text body_html html_body html html_message",
        WORDS,
        3,
        "body message text content",
    ),
    "message_type": _Hint("message_type recipient_type audience kind type channel", TYPES, 0, "message_type"),
    "ticket_id": _Hint(
        "ticket_id ticket_number ticket_key ticket case_id case_number issue_id conversation_id thread_id request_id "
        "aggregate_id correlation_id reference_id reference_name entity_id record_key event_key",
        TICKETS,
        1,
        "ticket_id ticket_number case_id",
    ),
    PAYLOAD: _Hint(
        "payload data event_data event_payload payload_json message_data body content message event record_json "
        "event_json json",
        frozenset({ValueKind.JSON, ValueKind.BYTES, *WORDS}),
        2,
        "payload data",
    ),
}
KEY_NAMES = ("id", "uuid", "guid", "message_id", "event_id")

# Words that exclude a column whose longer name contains a role's name: `response_body` is not the text that is sent,
# and `from_email` is not the recipient.
ELSEWHERE = re.compile("response|reply|sender|from|owner|author|template|max|error|html|payment|scheduled")

# Words in the names of tables. The first two groups speak for outgoing messages. The last speaks against them, but some
# applications send from a table such as `email_log`.
OUTGOING = re.compile(
    "outbox|outgoing|outbound|courier|queued?|pending|delivery|deliveries|dispatch|published|spool|unsent"
)
TOPICS = re.compile("e?mails?|messages?|notifications?|sms|webhooks?|reply|replies")
INCOMING = re.compile("inbox|inbound|incoming|received")
NOT_OUTGOING = re.compile(
    r".*(logs?|history|archived?|templates?|attachments?|recipients?|users?|accounts?|"
    r"sessions?|migrations?|audit|settings?|config|orders?|drafts?)"
)
NAME_WEIGHT, AGAINST = 3, 6
LEAST = 8  # the score from which a table looks like outgoing messages
OWN_PREFIX = "retrycli_"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table, and the columns that look like the roles of a message.

    Attributes:
        table: the table.
        roles: the columns by role, and by `PAYLOAD`.
        score: how much the table looks like outgoing messages; tables are ranked by it.
    """

    table: KnownTable
    roles: Mapping[str, TableColumn]
    score: int

    @property
    def newest_by(self) -> str | None:
        """Return the name of an indexed column in the order of which rows were added; None if there is none."""
        for role, kind in (("id", ValueKind.INTEGER), ("created_at", ValueKind.TIME)):
            column = self.roles.get(role)
            if column is not None and column.kind is kind and column.name in self.table.indexed:
                return column.name
        return None


def rank(tables: Iterable[KnownTable]) -> list[Candidate]:
    """Return the tables that look like outgoing messages, the most likely first."""
    found = [examine(table) for table in tables if not table.relation.startswith(OWN_PREFIX)]
    likely = [each for each in found if _looks_outgoing(each)]
    return sorted(
        likely,
        key=lambda each: (
            -each.score,
            each.table.kind is RelationKind.VIEW,
            each.table.schema is not None,
            each.table.name,
        ),
    )


def examine(table: KnownTable) -> Candidate:
    """Find the columns of a table that look like the roles of a message."""
    roles = _match_roles(table)
    weights = {role: hint.weight for role, hint in HINTS.items()} | {"id": 1}
    if "body" in roles:
        weights[PAYLOAD] = 0
    score = sum(weights[role] for role in roles) + _weigh_name(table.relation)
    return Candidate(table, roles, score if table.is_readable else score - NAME_WEIGHT)


def _looks_outgoing(found: Candidate) -> bool:
    has = found.roles.keys().__contains__
    is_tracked = has("status") or has("sent_at")
    is_sent = any(map(has, ("retry_count", "last_error", "sent_at", "recipient_email")))
    is_named = _weigh_name(found.table.relation) > 0
    if any(map(INCOMING.fullmatch, plain_name(found.table.relation).split("_"))):
        return False
    return (has("body") or has(PAYLOAD)) and is_tracked and (is_sent or is_named) and found.score >= LEAST


def plain_name(name: str) -> str:
    """Return a name in lower case, with its words separated by underscores: ``StatusName`` is ``status_name``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def _weigh_name(relation: str) -> int:
    words = plain_name(relation).split("_")
    weight = NAME_WEIGHT * sum(any(map(group.fullmatch, words)) for group in (OUTGOING, TOPICS))
    return weight - (AGAINST if any(map(NOT_OUTGOING.fullmatch, words)) else 0)


def _match_roles(table: KnownTable) -> dict[str, TableColumn]:
    names = {plain_name(column.name): column for column in reversed(table.columns)}
    roles: dict[str, TableColumn] = {}
    if (key := _find_key(table, names)) is not None:
        roles["id"] = key
    for role, hint in HINTS.items():
        taken = {column.name for column in roles.values()}
        found = next((each for each in _matches(names, role, hint) if each.name not in taken), None)
        if found is not None:
            roles[role] = found
    return roles


def _find_key(table: KnownTable, names: Mapping[str, TableColumn]) -> TableColumn | None:
    by_name = {column.name: column for column in table.columns}
    if table.keys:
        return by_name[table.keys[0]]
    return next((names[name] for name in KEY_NAMES if name in names), None)


def _matches(names: Mapping[str, TableColumn], role: str, hint: _Hint) -> Iterable[TableColumn]:
    by_its_own_name = [name for name in names if names[name].name == role]
    known = [name for name in hint.names.split() if name in names]
    longer = [
        name
        for ending in hint.endings.split()
        for name in names
        if name.endswith(f"_{ending}") and not any(map(ELSEWHERE.fullmatch, name.removesuffix(ending).split("_")))
    ]
    for name in [*by_its_own_name, *known, *longer]:
        column = names[name]
        if column.kind in hint.kinds and not _is_odd(name, column, hint):
            yield column
        elif name in by_its_own_name and role in {"cc_emails", "bcc_emails", "attachments"}:
            yield column  # text with a JSON list


def _is_odd(name: str, column: TableColumn, hint: _Hint) -> bool:
    """Return whether a column's kind does not suit its name: `sent` may be a time or a flag, but not text."""
    is_flag = name.removeprefix("is_").removeprefix("has_") in {"failed", "sent", "delivered", "processed", "published"}
    if hint is HINTS["status"]:
        return is_flag and column.kind not in {ValueKind.BOOLEAN, ValueKind.INTEGER, ANY}
    is_time = name.endswith(("_at", "_on", "_date")) or name.startswith("date_")
    return hint.kinds is TIMES and column.kind is not ValueKind.TIME and not is_time
