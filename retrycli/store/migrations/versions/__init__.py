"""One module per revision of retrycli's own tables, numbered from the oldest."""
