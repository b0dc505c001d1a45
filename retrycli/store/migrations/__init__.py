"""Alembic's revisions of retrycli's own tables."""
