"""A stand-in for ``crontab`` that keeps one user's crontab in a file, so that tests change no real crontab."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.environment import BARE

SCRIPT = """\
#!/bin/sh
case $1 in
  -l) test -e {file} || {{ echo "no crontab for $(id -un)" >&2; exit 1; }}; cat {file} ;;
  -r) rm {file} ;;
  -) cat > {file} ;;
  -u) exit 1 ;;
esac
"""


class Crontab:
    """The stand-in; ``variables`` puts it before the real ``crontab`` in ``PATH``."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        self.file = folder / "crontab"
        self.variables = {"PATH": f"{folder}/bin:{BARE['PATH']}"}
        self.program = folder / "bin/crontab"
        self.program.write_text(SCRIPT.format(file=self.file))
        self.program.chmod(0o755)


@contextmanager
def a_cron(folder: Path) -> Iterator[None]:
    """Run an idle process named ``cron``, so that a test finds a cron daemon on every machine."""
    daemon = folder / "cron"
    shutil.copy("/bin/sleep", daemon)
    with subprocess.Popen([daemon, "600"]) as process:
        try:
            yield
        finally:
            process.kill()
