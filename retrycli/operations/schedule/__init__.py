"""Schedule passes with cron, predict the next run, and notice that a pass has not begun."""

from typing import TYPE_CHECKING

from retrycli.operations import on_demand

if TYPE_CHECKING:
    from retrycli.operations.schedule import in_process, installation, next_run

__getattr__ = on_demand(__name__)
