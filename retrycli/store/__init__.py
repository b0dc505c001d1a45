"""Every query, on SQLite and PostgreSQL alike.

`database` opens it; `enrolment` follows the application's table; `claims` is what a pass works with; `passes` keeps the
passes' books; `listing` and `history` are what an operator reads.
"""
