"""The process that uses Apprise for one target: ``python -I apprise_process.py``, started by `retrycli.notify.apprise`.

Apprise reads a receiver's whole response and decompresses it. In a process of its own, a response that is too large or
never ends costs only this notification. Standard input is one JSON object, see `main`; standard output is the result.
"""

import json
import logging
import os
import re
import resource
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

MEMORY = 256 * 1024 * 1024  # bytes of data; Apprise needs about 40 MiB


def main() -> None:
    """Read the request, and print the result as JSON.

    The request has the parent's search path (``path``), the target's ``url`` and, if a notification is to be sent, its
    ``title``, its ``body`` and whether it is good news (``good``). The result has ``failure``, the reason without the
    URL; without a title it has ``place``, the receiver's host and port. If Apprise or a package that it needs can't be
    imported, ``missing`` is true.
    """
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # cron's environment differs from an operator's
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)  # keep what a plugin prints out of the result
        json.dump(_result(request), output)


def _result(request: dict[str, Any]) -> dict[str, Any]:
    # Lines of Apprise and its libraries may contain hosts, tokens and responses. `_reason` reads Apprise's own.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    url = request["url"]
    scheme = url.partition("://")[0].lower()
    try:
        import apprise

        asset = apprise.AppriseAsset(
            app_id="retrycli",
            app_desc="retrycli",
            app_url="",
            image_url_mask="",
            service_timeout=0,  # the parent limits the time
            http_redirects=False,
        )
        target = apprise.Apprise.instantiate(url, asset=asset)
        if target is None:
            return {"failure": f"Apprise does not support this {scheme}:// URL, or a package that it needs is missing"}
        if "title" not in request:
            return {"place": _place(target, scheme)}
        result = apprise.Apprise(target, asset=asset).notify(
            title=request["title"],
            body=request["body"],
            notify_type=apprise.NotifyType.SUCCESS if request["good"] else apprise.NotifyType.WARNING,
            body_format=apprise.NotifyFormat.TEXT,
            interpret_escapes=False,
            log_level=logging.DEBUG,
        )
    except ImportError:
        return {"missing": True}
    except Exception as error:  # noqa: BLE001  a plugin may raise any error, and its text may quote the URL
        return {"failure": type(error).__name__}
    return {} if result else {"failure": _reason([line.message for line in result.logs()])}


def _place(target: Any, scheme: str) -> tuple[str, int] | None:  # noqa: ANN401  each plugin has other attributes
    if smtp := getattr(target, "smtp_host", None):
        return smtp, int(target.port or 25)
    # The host part of a hosted service's Apprise URL is a token or an id, so the address comes from Apprise's plugin.
    addresses = [str(getattr(target, name, None)) for name in ("notify_url", "webhook_url", "cloud_notify_url")]
    service = next((address for address in addresses if address.startswith("https://")), None)
    own = any("{host}" in pattern for pattern in target.templates) and target.host
    if service is not None and not (own and scheme in {"ntfy", "ntfys"}):
        return urlsplit(service).hostname or "", 443
    return (str(target.host), int(target.port or (443 if target.secure else 80))) if own else None


# Patterns for the parts of Apprise's log lines that may be shown, each with the text to show. The rest of a line may
# contain hosts, tokens and responses.
REASONS = (
    (r"\berror=(\d{3})\b", "HTTP {}"),
    (r"\((\d{3}), b['\"]", "SMTP {}"),
    (r"\[Errno -?\d+\] ([A-Za-z ]+)", "{}"),
    (r"\[SSL: ([A-Z_]+)\]", "TLS: {}"),
    (r"((?:SMTP AUTH|STARTTLS) extension not supported)", "{}"),
    (r"(timed out)", "{}"),
)


def _reason(lines: Sequence[str]) -> str:
    for pattern, words in REASONS:
        for line in lines:
            if found := re.search(pattern, line):
                return "not accepted: " + words.format(found[1])
    return "rejected or unreachable"


if __name__ == "__main__":
    main()
