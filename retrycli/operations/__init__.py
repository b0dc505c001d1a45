"""The operator's use cases, one module a use. Commands, pages and applications call them."""
