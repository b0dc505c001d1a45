"""The sources of passes: cron lines and systemd timers."""
