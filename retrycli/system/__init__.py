"""This machine: files, locks, schedulers, the editor."""
