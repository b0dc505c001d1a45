"""The operator's use cases, one module per use case. Commands, pages and applications call them."""
