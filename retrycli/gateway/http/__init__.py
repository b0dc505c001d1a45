"""Deliver messages to an HTTP API."""
