"""All queries, for SQLite and PostgreSQL.

`database` opens transactions, and `enrolment` follows the application's table. A pass works with `claims` and
`results`, and stores data for the next pass in `passes`. Operators read `listing` and `history`.
`dialects` lets all engines of a process share their compiled statements.
"""
