"""What an operator can ask for. Commands, pages and applications call these."""
