"""Tables of outgoing messages as known applications create them, with other tables of the same applications.

The statements are for PostgreSQL; `in_sqlite` translates them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import NullPool, create_engine, make_url

from retrycli.domain.table_mapping import Scalar

DECOYS = """
CREATE TABLE users (id bigint PRIMARY KEY, email text, status text, created_at timestamp, updated_at timestamp);
CREATE TABLE sessions (id uuid PRIMARY KEY, user_id bigint, data text, state text, created_at timestamp);
CREATE TABLE logs (id bigint PRIMARY KEY, level text, message text, status text, error text, created_at timestamp);
CREATE TABLE django_migrations (id bigint PRIMARY KEY, app text, name text, applied timestamp);
CREATE TABLE orders (id bigint PRIMARY KEY, email text, status text, note text, attempts integer, sent_at timestamp,
  created_at timestamp);
CREATE TABLE inbox (id bigint PRIMARY KEY, ticket_id bigint, sender text, subject text, body text, status text,
  attempts integer, last_error text, created_at timestamp);
"""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """One application.

    Attributes:
        tables: the statements that create its tables.
        table: the table of its outgoing messages, as ``database.table`` names it.
        rows: statements that add 12 rows, numbered by ``numbers.n``, with three statuses.
        columns: the settings in ``[database.columns]``, as an operator would write them.
        failed: the value for failed messages.
        sent: the value for delivered messages.
    """

    tables: str
    table: str
    rows: str
    columns: dict[str, object]
    failed: Scalar
    sent: Scalar


OWN = {"own": True}
CUSTOMER = {"value": "customer"}

POST_OFFICE = Outgoing(
    tables="""
    CREATE TABLE post_office_emailtemplate (id integer PRIMARY KEY, name varchar(255), subject varchar(255),
      content text, html_content text, created timestamp, last_updated timestamp);
    CREATE TABLE post_office_email (id integer PRIMARY KEY, from_email varchar(254) NOT NULL, "to" text NOT NULL,
      cc text NOT NULL, bcc text NOT NULL, subject varchar(989) NOT NULL, message text NOT NULL,
      html_message text NOT NULL, status smallint, priority smallint, created timestamp NOT NULL,
      last_updated timestamp NOT NULL, scheduled_time timestamp, expires_at timestamp, message_id varchar(255),
      number_of_retries integer, headers jsonb, context jsonb,
      template_id integer REFERENCES post_office_emailtemplate (id), backend_alias varchar(64) NOT NULL);
    CREATE INDEX post_office_email_status ON post_office_email (status);
    CREATE TABLE post_office_log (id integer PRIMARY KEY, email_id integer REFERENCES post_office_email (id),
      date timestamp, status smallint, exception_type varchar(255), message text);
    CREATE TABLE post_office_attachment (id integer PRIMARY KEY, file varchar(100), name varchar(255));
    """,
    table="post_office_email",
    columns={
        "ticket_id": "id",
        "message_type": CUSTOMER,
        "recipient_email": {"from": "to", "split": ","},
        "body": "message",
        "retry_count": "number_of_retries",
        "last_error": OWN,
        "created_at": "created",
        "updated_at": "last_updated",
    },
    failed=1,
    sent=0,
    rows="""INSERT INTO post_office_email (id, from_email, "to", cc, bcc, subject, message, html_message, status,
      created, last_updated, backend_alias) SELECT n, 'a@example.com', 'b@example.com, c@example.com', '', '', 'Tea',
      'Dear B', '', n % 3, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, '' FROM numbers""",
)
ODOO = Outgoing(
    tables="""
    CREATE TABLE mail_message (id serial PRIMARY KEY, res_id integer, subject varchar, message_type varchar, body text,
      email_from varchar, model varchar, date timestamp, create_date timestamp);
    CREATE TABLE mail_mail (id serial PRIMARY KEY, mail_message_id integer NOT NULL REFERENCES mail_message (id),
      create_uid integer, email_cc varchar, state varchar, failure_type varchar, body_html text, "references" text,
      headers text, email_to text, failure_reason text, is_notification boolean, auto_delete boolean,
      scheduled_date timestamp, create_date timestamp, write_date timestamp);
    CREATE TABLE mail_notification (id serial PRIMARY KEY, mail_message_id integer REFERENCES mail_message (id),
      mail_mail_id integer REFERENCES mail_mail (id), notification_type varchar, notification_status varchar,
      failure_type varchar, failure_reason text, read_date timestamp);
    """,
    table="mail_mail",
    columns={
        "ticket_id": "id",
        "message_type": CUSTOMER,
        "subject": {"sql": "(SELECT t.subject FROM mail_message t WHERE t.id = mail_mail.mail_message_id)"},
        "recipient_email": "email_to",
        "status": "state",
        "body": "body_html",
        "retry_count": OWN,
        "last_error": "failure_reason",
        "created_at": "create_date",
        "updated_at": "write_date",
    },
    failed="exception",
    rows="""INSERT INTO mail_message (id, subject) SELECT n, 'Tea' FROM numbers;
    INSERT INTO mail_mail (id, mail_message_id, state, email_to, body_html) SELECT n, n,
      CASE n % 3 WHEN 0 THEN 'outgoing' WHEN 1 THEN 'sent' ELSE 'exception' END, 'b@example.com', '<p>' FROM numbers""",
    sent="sent",
)
FRAPPE = Outgoing(
    tables="""
    CREATE TABLE "tabEmail Queue" (name varchar(140) PRIMARY KEY, creation timestamp, modified timestamp,
      modified_by varchar(140), owner varchar(140), docstatus smallint, idx bigint, sender varchar(140), message text,
      status varchar(140), error text, message_id text, reference_doctype varchar(140), reference_name varchar(140),
      communication varchar(140), send_after timestamp, priority bigint, attachments text, retry bigint);
    CREATE TABLE "tabEmail Queue Recipient" (name varchar(140) PRIMARY KEY, creation timestamp, modified timestamp,
      recipient varchar(140), status varchar(140), error text, parent varchar(140));
    CREATE TABLE "tabCommunication" (name varchar(140) PRIMARY KEY, creation timestamp, subject text, content text,
      recipients text, status varchar(140), delivery_status varchar(140));
    """,
    table="tabEmail Queue",
    columns={
        "id": "name",
        "ticket_id": "reference_name",
        "message_type": CUSTOMER,
        "subject": {"value": ""},
        "body": "message",
        "retry_count": "retry",
        "last_error": "error",
        "created_at": "creation",
        "updated_at": "modified",
    },
    failed="Error",
    rows="""INSERT INTO "tabEmail Queue" (name, reference_name, status, message) SELECT CAST(n AS varchar(9)),
      'HD-' || n, CASE n % 3 WHEN 0 THEN 'Not Sent' WHEN 1 THEN 'Sent' ELSE 'Error' END, 'From: a' FROM numbers""",
    sent="Sent",
)
CAP = Outgoing(
    tables="""
    CREATE SCHEMA cap;
    CREATE TABLE cap.published ("Id" bigint PRIMARY KEY, "Version" varchar(20) NOT NULL, "Name" varchar(200) NOT NULL,
      "Content" text, "Retries" integer NOT NULL, "Added" timestamp NOT NULL, "ExpiresAt" timestamp,
      "StatusName" varchar(50) NOT NULL);
    CREATE TABLE cap.received ("Id" bigint PRIMARY KEY, "Version" varchar(20) NOT NULL, "Name" varchar(200) NOT NULL,
      "Group" varchar(200), "Content" text, "Retries" integer NOT NULL, "Added" timestamp NOT NULL,
      "ExpiresAt" timestamp, "StatusName" varchar(50) NOT NULL);
    """,
    table="cap.published",
    columns={
        "id": "Id",
        "ticket_id": "Id",
        "message_type": CUSTOMER,
        "subject": {"value": ""},
        "body": "Content",
        "status": "StatusName",
        "retry_count": "Retries",
        "last_error": OWN,
        "created_at": "Added",
    },
    failed="Failed",
    rows="""INSERT INTO cap.published SELECT n, 'v1', 'mail.sent', '{"Value": "Dear"}', 0, CURRENT_TIMESTAMP, NULL,
      CASE n % 3 WHEN 0 THEN 'Succeeded' WHEN 1 THEN 'Scheduled' ELSE 'Failed' END FROM numbers""",
    sent="Succeeded",
)
APPLICATIONS = {"post-office": POST_OFFICE, "odoo": ODOO, "frappe": FRAPPE, "cap": CAP}

# Parts of statements that SQLite does not know.
IN_SQLITE = {r"\bcap\.": "", r"CREATE SCHEMA cap": "SELECT 1", r"\b(big)?serial\b": "integer"}


def execute(url: str, statements: str) -> None:
    """Execute statements, translated for SQLite if necessary, in one transaction."""
    engine = create_engine(url, poolclass=NullPool)
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";")):
            connection.exec_driver_sql(in_sqlite(statement) if is_sqlite else statement.replace("%", "%%"))


def in_sqlite(statement: str) -> str:
    for pattern, other in IN_SQLITE.items():
        statement = re.sub(pattern, other, statement)
    return statement


def fill(url: str, application: Outgoing) -> None:
    """Create an application's tables and the decoys, and add rows."""
    numbers = ", ".join(f"({number})" for number in range(12))
    execute(url, f"{DECOYS}{application.tables}CREATE TABLE numbers (n integer); INSERT INTO numbers VALUES {numbers}")
    execute(url, f"{application.rows}; DROP TABLE numbers")
