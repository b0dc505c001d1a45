"""Every query, for SQLite and PostgreSQL.

`database` opens transactions; `enrolment` follows the application's table; `claims` and `results` are what a pass works
with; `passes` and `breakers` keep what passes remember; `listing` and `history` are what an operator reads.
"""
