"""Alembic migrations of retrycli's own tables."""
