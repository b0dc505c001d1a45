"""Deliver messages by e-mail."""
