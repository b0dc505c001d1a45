# retrycli from the system's cron.
#
# Where:   /etc/cron.d/retrycli, owned by root, mode 0644; `retrycli cron install` writes such a file by itself. By hand:
#          install -o root -g root -m 0644 cron/retrycli.cron.d /etc/cron.d/retrycli
#          The name there must have no dot: cron passes over /etc/cron.d/retrycli.cron.d without a word. It also
#          ignores a file that others may write to. It sees a changed file within a minute; nothing is to be restarted.
# Change:  MAILTO, the user, and the two paths if retrycli or its settings are elsewhere.
# Or else: crontab (for a user's own) or retrycli.timer. Only one of them.
#
# A % in the command would end it, and the rest would go to its standard input: write it \%.
# A comment has to stand on a line of its own, and the last line needs its line end.

# Nothing is inherited from /etc/crontab or from a login. The line below needs no PATH; it is here for what you add.
PATH=/usr/local/bin:/usr/bin:/bin

# Cron mails what a command prints. When all is well `run-once` prints nothing, so whatever arrives matters.
# MAILTO="" would throw it away.
MAILTO=operators@example.com

# The sixth field, which a user's own crontab doesn't have, is the user: the one who may read the database and the
# secrets, and not root. Operators run retrycli as the same user (`sudo -u ticketing retrycli …`).
# Every 15 minutes, as schedule.retry_interval_minutes says; change both or neither.
# umask 077: what a pass creates, the lock first of all, is nobody else's to open. (SQLite gives its journal the
# database's own mode, so an application with another user is not shut out.)
# exec: no shell stays behind to wait, so a signal reaches retrycli itself.
# -P: Python imports nothing that happens to lie in the user's home, where cron starts it.
# --started-by cron: `retrycli passes` shows it, and `retrycli status` tells the next run by it.
*/15 * * * * ticketing umask 077; exec /opt/retrycli/bin/python3 -P -m retrycli --config /etc/retrycli/retrycli.toml run-once --started-by cron
