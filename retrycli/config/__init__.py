"""Settings: TOML and the environment."""
