# Run retrycli from the system's cron.
#
# Where:   /etc/cron.d/retrycli, owned by root, mode 0644. `retrycli cron install` writes such a file. By hand:
#          install -o root -g root -m 0644 cron/retrycli.cron.d /etc/cron.d/retrycli
#          The installed name must not contain a dot: cron silently ignores /etc/cron.d/retrycli.cron.d. Cron also
#          ignores a file that others may write to. It reads a changed file within a minute, without a restart.
# Change:  MAILTO, the user, and the two paths if retrycli or its settings are elsewhere.
# Or else: crontab (for a user's own crontab) or retrycli.timer. Use only one of the three.
#
# Write % in the command as \%: cron ends the command at a plain % and passes the rest to its standard input.
# A comment must be on a line of its own, and the last line must end with a newline.

# Cron passes on no variables of /etc/crontab or of a login. The line below needs no PATH; it is for lines that you add.
PATH=/usr/local/bin:/usr/bin:/bin

# Cron mails a command's output. If there are no problems, `run-once` prints nothing, so every mail reports one.
# MAILTO="" would discard these mails.
MAILTO=operators@example.com

# The sixth field, which a user's own crontab doesn't have, is the user. It must be the user who may read the database
# and the secrets, not root. Operators run retrycli as the same user (`sudo -u ticketing retrycli …`).
# Every 15 minutes, as schedule.retry_interval_minutes says; change both or neither.
# umask 077: the files that a pass creates are private, except for the metrics and the report. (SQLite gives its
#   journal the mode of the database, so an application that runs as another user can still open it.)
# exec: retrycli replaces the shell, so a signal reaches retrycli itself.
# -P: Python imports no modules from the user's home directory, where cron starts it.
# --started-by cron: `retrycli passes` shows it, and `retrycli status` uses it to find the time of the next run.
*/15 * * * * ticketing umask 077; exec /opt/retrycli/bin/python3 -P -m retrycli --config /etc/retrycli/retrycli.toml run-once --started-by cron
