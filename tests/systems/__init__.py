"""Real systems: each test is skipped where its own is not installed."""
