"""Deliver to an HTTP API."""
