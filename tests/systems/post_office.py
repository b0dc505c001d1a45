"""A real Django application with django-post-office: its own migrations, mails and sender."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.cli.command import LONGEST
from tests.environment import BARE

needs_post_office = pytest.mark.skipif(
    find_spec("post_office") is None, reason="django-post-office is not installed; the extra `test` has it"
)

SETTINGS = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["testserver"]
USE_TZ = True
DATABASES = {{"default": {database}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
    "django.contrib.sessions", "post_office",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{{
    "BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {{"context_processors": [
        "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]}},
}}]
ROOT_URLCONF = "desk_urls"
EMAIL_BACKEND = "post_office.EmailBackend"
EMAIL_HOST, EMAIL_PORT, EMAIL_TIMEOUT = "127.0.0.1", {port}, 10
DEFAULT_FROM_EMAIL = "desk@example.com"
POST_OFFICE = {{"BACKENDS": {{"default": "django.core.mail.backends.smtp.EmailBackend"}}, "MAX_RETRIES": {max_retries}}}
"""
URLS = (
    "from django.contrib import admin\nfrom django.urls import path\nurlpatterns = [path('admin/', admin.site.urls)]\n"
)
SET_UP = "import django, json\ndjango.setup()\nfrom post_office.models import *\nfrom post_office import mail\n"
SHOW_ADMIN = """
from django.contrib.auth.models import User
from django.test import Client
user, _ = User.objects.get_or_create(username="anna", is_staff=True, is_superuser=True)
client = Client()
client.force_login(user)
shown = client.get("/admin/post_office/email/")
print(json.dumps([shown.status_code, shown.content.decode()]))
"""


@dataclass(frozen=True)
class Django:
    """A Django project in a folder.

    Args:
        folder: the folder.
        url: the database's URL.
    """

    folder: Path
    url: str

    def configure(self, port: int, *, max_retries: int = 0) -> None:
        """Write the project's settings, with the port of its mail server."""
        text = SETTINGS.format(database=self._database, port=port, max_retries=max_retries)
        (self.folder / "desk_settings.py").write_text(text)
        (self.folder / "desk_urls.py").write_text(URLS)

    def manage(self, *args: str) -> str:
        """Run one of Django's commands."""
        return self._run("-m", "django", *args)

    def python(self, code: str) -> Any:  # noqa: ANN401  whatever JSON the code prints
        """Run code in the project. Return the JSON that it prints on its last line."""
        printed = self._run("-c", SET_UP + code).splitlines()
        return json.loads(printed[-1]) if printed else None

    def send(self) -> None:
        """Send queued mails, as the project's cron line does."""
        self.manage("send_queued_mail", "--lockfile", str(self.folder / "post_office"))

    def mails(self) -> dict[int, dict[str, Any]]:
        """Return the mails by id."""
        found = "Email.objects.order_by('id').values('id', 'status', 'number_of_retries', 'subject')"
        rows: list[dict[str, Any]] = self.python(f"print(json.dumps(list({found})))")
        return {row["id"]: row for row in rows}

    def logs(self) -> list[tuple[int, int]]:
        """Return the mail and the status of each entry in post-office's own log."""
        rows: list[list[int]] = self.python(
            "print(json.dumps(list(Log.objects.order_by('id').values_list('email_id', 'status'))))"
        )
        return [(mail, status) for mail, status in rows]

    def admin(self) -> list[str]:
        """Return the statuses of all mails as the admin shows them, in the order of their subjects."""
        status, page = self.python(SHOW_ADMIN)
        assert status == 200
        rows = re.findall(r'field-shortened_subject">(.*?)</td>.*?field-status">(.*?)</td>', str(page), re.DOTALL)
        return [shown for _, shown in sorted(rows)]

    @property
    def _database(self) -> dict[str, object]:
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(url.database)}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.database,
            "USER": url.username or "",
            "PASSWORD": url.password or "",
            "HOST": url.host or str(url.query.get("host", "")),
            "PORT": str(url.port or ""),
        }

    def _run(self, *args: str) -> str:
        path = os.pathsep.join([str(self.folder), *sys.path])
        done = subprocess.run(
            [sys.executable, *args],
            env={**BARE, "DJANGO_SETTINGS_MODULE": "desk_settings", "PYTHONPATH": path},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


Make = Callable[[str], Django]
