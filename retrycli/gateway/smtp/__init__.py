"""Deliver by mail."""
