"""Messages, outcomes and policies, without any I/O."""
