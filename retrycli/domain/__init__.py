"""What a message, an outcome and a policy are: values and pure functions."""
