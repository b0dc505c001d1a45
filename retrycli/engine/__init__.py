"""One pass, and the ports that it needs."""
