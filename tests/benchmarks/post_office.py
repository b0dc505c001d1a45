"""Run django-post-office, with its mails sent as HTTP requests.

`post_office.py prepare DATABASE COUNT` creates the tables and queues mails. `post_office.py send DATABASE URL` does
what cron would run, `manage.py send_queued_mail`, without the command's system checks, which take 10 ms. Two further
arguments set the number of threads and the batch size. DATABASE is a URL as for the other contenders.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import django  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.core.management import call_command  # type: ignore[import-untyped]


def database_of(url: str) -> dict[str, object]:
    """Return Django's settings for the database at a URL."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        options = {"init_command": "PRAGMA journal_mode = WAL", "transaction_mode": "IMMEDIATE"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path[1:], "OPTIONS": options}
    [host] = parse_qs(parts.query).get("host", [parts.hostname])
    named = {"NAME": parts.path[1:], "USER": parts.username, "PASSWORD": parts.password}
    return {"ENGINE": "django.db.backends.postgresql", **named, "HOST": host, "PORT": parts.port}


def configure(database: str, post_office: dict[str, object], **further: object) -> None:
    """Set up Django with only what post-office needs."""
    backends = {"default": "tests.benchmarks.post_office_backend.HttpBackend"}
    settings.configure(
        INSTALLED_APPS=["post_office"],
        DATABASES={"default": database_of(database)},
        POST_OFFICE={"BACKENDS": backends, **post_office},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
        **further,
    )
    django.setup()


def prepare(database: str, count: int) -> None:
    configure(database, {}, TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}])
    from post_office import mail  # type: ignore[import-untyped]

    from tests.benchmarks.application import BODY

    call_command("migrate", verbosity=0)
    addresses = {"sender": "help@example.com", "recipients": ["someone@example.com"]}
    mail.send_many([{**addresses, "subject": f"Ticket {n}", "message": BODY} for n in range(count)])


def send(database: str, url: str, tuned: list[int]) -> None:
    names = ("THREADS_PER_PROCESS", "BATCH_SIZE")
    configure(database, dict(zip(names, tuned, strict=False)), BENCHMARK_URL=url)
    call_command("send_queued_mail", lockfile=str(Path("post_office").absolute()))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", database, count]:
            prepare(database, int(count))
        case ["send", database, url, *tuned]:
            send(database, url, [int(message_id) for message_id in tuned])
        case _:
            sys.exit(__doc__)
