"""Every query, for SQLite and PostgreSQL.

`database` opens transactions, and `enrolment` follows the application's table. A pass works with `claims` and
`results`, and keeps data for the next one in `passes`. An operator reads `listing` and `history`.
"""
