"""Schedule passes with cron lines and systemd timers, and find what starts passes."""
