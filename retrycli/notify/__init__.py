"""Notifications through Apprise, and a dead-man switch."""
