"""What delivers: it turns a message into an outcome, and never raises for what the other side did."""
