"""Messages, outcomes and policies: values and pure functions."""
