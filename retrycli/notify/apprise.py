"""Send notifications with Apprise, and return the result for each target. No result contains a target's URL."""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retrycli.domain.errors import ConfigurationError
from retrycli.notify.notices import Notice
from retrycli.system import host
from retrycli.system.process import install

MISSING = f"apprise is not installed; run `{install('notify')}`"

# Time limit for all targets, which are notified in parallel. Apprise limits only each step of an SMTP session, not the
# whole delivery.
WAIT_SECONDS = 30.0


def scheme(url: str) -> str:
    """Return the scheme of a URL. It contains no secret, so it may be shown."""
    return url.partition("://")[0].lower()


def send(notices: Mapping[str, Notice]) -> dict[str, str | None]:
    """Send each target its notice. Notify the targets in parallel, each in a process of its own.

    Args:
        notices: the notices, by Apprise URL of the target. If a service has no titles, Apprise puts the title above the
            text.

    Returns:
        For each URL, None if the target accepted the notice; otherwise the reason, without the URL.
    """
    with ThreadPoolExecutor(max(len(notices), 1)) as pool:
        return dict(zip(notices, pool.map(_send, notices, notices.values()), strict=True))


def _send(url: str, notice: Notice) -> str | None:
    try:
        return _ask(url, title=notice.title, body=notice.body, good=notice.good).get("failure")
    except ConfigurationError as error:
        return str(error)


def place(url: str) -> tuple[str, int] | None:
    """Return the host and port that receive a target's notifications; None if they are unknown.

    Raises:
        ConfigurationError: Apprise or a package that it needs is not installed, or Apprise does not support the URL.
    """
    result = _ask(url)
    if failure := result.get("failure"):
        raise ConfigurationError(f"{failure}; fix the URL in notify.urls or its file, or install the package")
    found = result["place"]
    return (found[0], found[1]) if found else None


def _ask(url: str, **notice: object) -> dict[str, Any]:
    """Return the result of `apprise_process`, which reads the URL from its standard input: its arguments are public."""
    request = json.dumps({"path": sys.path, "url": url, **notice}).encode()
    program = [_python(), "-I", str(Path(__file__).with_name("apprise_process.py"))]
    done = host.run(program, request, seconds=WAIT_SECONDS)
    if done.returncode == host.TIMED_OUT:
        return {"failure": f"no response within {WAIT_SECONDS:g} s"}
    if done.returncode:
        return {"failure": f"the process that uses Apprise ended with exit status {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    if "missing" in result:
        raise ConfigurationError(MISSING)
    return result


def _python() -> str:
    """Return the Python that runs this process. In an application server, such as uWSGI, `sys.executable` may be the
    server.
    """
    if Path(sys.executable).name.startswith("py"):
        return sys.executable
    return str(Path(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))
