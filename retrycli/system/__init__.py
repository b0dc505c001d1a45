"""Access to this machine: files, locks, schedulers, the editor."""
