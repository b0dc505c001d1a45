"""Who is told of what has changed: apprise, and a dead-man switch."""
