"""The schema of the application for which ``pending_messages`` was made: a message refers to a row of another table."""

from tests.cli.application import TABLES

ORIGINAL = (
    TABLES.replace("ticket_id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY, ticket_id INTEGER NOT NULL")
    .replace("ticket_states (ticket_id)", "ticket_states (id)")
    .partition("CREATE INDEX")[0]
    + "INSERT INTO ticket_states VALUES (4, 4704, 'open'), (5, 4705, 'open'), (6, 4706, 'open');"
)
THREE_LINES = """
[database.columns]
ticket_id = { sql = "(SELECT t.ticket_id FROM ticket_states t WHERE t.id = pending_messages.ticket_id)" }
"""
