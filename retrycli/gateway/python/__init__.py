"""Deliver through a function of the application."""
