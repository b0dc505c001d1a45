"""What calls the passes: cron lines and systemd timers."""
