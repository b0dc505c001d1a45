"""Notifications by apprise, and a dead-man switch."""
