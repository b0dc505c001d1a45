"""The pages of the console: HTML from templates, plain forms, one style sheet and one script."""
