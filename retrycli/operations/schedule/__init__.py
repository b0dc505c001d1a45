"""Schedule passes with cron, predict the next run, and notice that a pass has not begun."""
