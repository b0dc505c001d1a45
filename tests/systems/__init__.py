"""Real systems: each test is skipped if its system is not installed."""
