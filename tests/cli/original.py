"""The schema of the application for which ``pending_messages`` was made: a message refers to a row of another table."""

ORIGINAL = """
CREATE TABLE ticket_states (
    id INTEGER PRIMARY KEY,
    ticket_id INTEGER NOT NULL,
    state VARCHAR(20) NOT NULL
);
CREATE TABLE pending_messages (
    id INTEGER PRIMARY KEY,
    ticket_id INTEGER NOT NULL REFERENCES ticket_states (id),
    message_type VARCHAR(20) NOT NULL,
    recipient_email VARCHAR(255),
    cc_emails JSON,
    bcc_emails JSON,
    subject TEXT,
    body TEXT,
    attachments JSON,
    confidence_score FLOAT,
    status VARCHAR(20) NOT NULL,
    retry_count INTEGER,
    last_error TEXT,
    created_at DATETIME,
    updated_at DATETIME,
    sent_at DATETIME
);
INSERT INTO ticket_states VALUES (4, 4704, 'open'), (5, 4705, 'open'), (6, 4706, 'open');
"""
THREE_LINES = """
[database.columns]
ticket_id = { sql = "(SELECT t.ticket_id FROM ticket_states t WHERE t.id = pending_messages.ticket_id)" }
"""
