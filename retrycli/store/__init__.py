"""All queries, for SQLite and PostgreSQL.

`database` opens transactions, and `enrolment` updates the queue from the application's table. A pass uses `claims` and
`results`, and stores data for later passes with `passes`. `listing` and `history` read data for operators.
`dialects` lets all engines of a process share their compiled statements.
"""
