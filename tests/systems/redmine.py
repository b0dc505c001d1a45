"""A real Redmine on loopback, from Debian's packages: a private copy with a SQLite file, and a folder for its mails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.environment import free_port
from tests.systems.servers import does, running, says, wait_until

if TYPE_CHECKING:
    from email.message import EmailMessage

INSTALLED = Path("/usr/share/redmine")
NEEDS = ("ruby", "-e", "gem 'sqlite3'; gem 'puma'")
THREADS = 4
INSTANCE = ("config", "files", "log", "plugins", "tmp/cache", "public")
DATABASE = """\
production:
  adapter: sqlite3
  database: {folder}/redmine.sqlite
  timeout: 20000
"""
MAIL = """\
production:
  email_delivery:
    delivery_method: :file
    file_settings: {{location: '{folder}/mails'}}
"""
AT_ONCE = "config.active_job.queue_adapter = :inline\n"
"""Redmine sends mails before it answers, so that after the answer a test can check who got no mail."""
TASKS = ("db:migrate", "look_again", "redmine:load_default_data", "seed")
SEED = """
# Loaded before there were tables, the models know nothing of columns.
task :look_again do
  ActiveRecord::Base.descendants.each(&:reset_column_information)
end

task seed: :environment do
  settings = {rest_api_enabled: '1', login_required: '1', default_language: 'en', mail_from: 'support@redmine.test'}
  settings.each { |name, value| Setting[name] = value }
  project = Project.create!(name: 'Support', identifier: 'support', is_public: false)
  project.trackers = Tracker.all
  outside = [:view_issues, :add_issues, :add_issue_notes]
  inside = outside + [:edit_issues, :view_private_notes, :set_notes_private]
  {
    agent: inside, colleague: inside, customer: outside, replyonly: outside, reader: [:view_issues],
    editor: [:view_issues, :edit_issues],
  }.each do |login, permissions|
    user = User.new(firstname: login, lastname: 'Test', mail: "#{login}@redmine.test", language: 'en')
    user.login = login
    user.mail_notification = 'all'
    user.password = user.password_confirmation = "#{login}-password"
    user.save!
    role = Role.create!(name: login, permissions: permissions)
    Member.create!(project: project, principal: user, roles: [role])
    puts "#{login} #{user.api_key}"
  end
end
"""
"""Tasks that create users, each with its own role. The colleague has the agent's rights, and is mailed its notes."""
AGENT, COLLEAGUE, CUSTOMER, REPLYONLY, READER, EDITOR = (
    "agent",
    "colleague",
    "customer",
    "replyonly",
    "reader",
    "editor",
)


@dataclass(frozen=True)
class Redmine:
    url: str
    folder: Path
    keys: Mapping[str, str]
    process: subprocess.Popen[bytes]

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop the server for a `with` block: it accepts connections, but handles their requests only afterwards."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def as_user(self, login: str) -> httpx.Client:
        """Return an API client for one user."""
        return httpx.Client(base_url=self.url, headers={"X-Redmine-API-Key": self.keys[login]}, timeout=60)

    def open_ticket(self, subject: str = "Printer does not print") -> int:
        """Open an issue as the customer, who is thus notified of all public notes."""
        issue = {"project_id": "support", "tracker_id": 1, "priority_id": 2, "subject": subject}
        with self.as_user(CUSTOMER) as api:
            answer = api.post("/issues.json", json={"issue": issue})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["issue"]["id"])

    def ticket(self, number: int, login: str = AGENT) -> dict[str, Any]:
        """Return an issue with everything that a user may see of it."""
        with self.as_user(login) as api:
            answer = api.get(f"/issues/{number}.json", params={"include": "journals,attachments"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["issue"]
        return found

    def notes(self, number: int, login: str = AGENT) -> list[dict[str, Any]]:
        """Return the notes of an issue that a user may see."""
        return [journal for journal in self.ticket(number, login)["journals"] if journal["notes"]]

    def download(self, url: str, login: str = AGENT) -> bytes:
        with self.as_user(login) as api:
            return api.get(url).raise_for_status().content

    def mails_to(self, login: str) -> list[EmailMessage]:
        file = self.folder / "mails" / f"{login}@redmine.test"
        content = file.read_bytes() if file.exists() else b""
        return [message_from_bytes(mail, policy=default) for mail in re.split(rb"(?m)^(?=Date: )", content) if mail]


@contextmanager
def redmine(folder: Path) -> Iterator[Redmine]:
    """Provide a fresh Redmine in an empty folder for a `with` block."""
    if not (INSTALLED / "config.ru").exists() or not does(*NEEDS):
        pytest.skip("Redmine is not installed: apt-get install dbconfig-no-thanks redmine-sqlite redmine")
    home, port = folder / "app", free_port()
    _copy(home)
    for name in INSTANCE:
        (home / "instances" / "default" / name).mkdir(parents=True)
    config = home / "instances" / "default" / "config"
    (config / "database.yml").write_text(DATABASE.format(folder=folder))
    (config / "configuration.yml").write_text(MAIL.format(folder=folder))
    (home / "config" / "additional_environment.rb").write_text(AT_ONCE)
    (home / "lib" / "tasks" / "seed.rake").write_text(SEED)
    env = _environment(folder)
    _run(["bundle", "install", "--local", "--quiet"], home, env)
    # Run all tasks in one process, because loading Redmine takes seconds.
    said = _run(["bundle", "exec", "rake", *TASKS], home, env)
    keys = dict(re.findall(r"(?m)^(\w+) ([0-9a-f]{40})$", said))
    url = f"http://127.0.0.1:{port}"
    server = ["puma", "-q", "-e", "production", "-t", f"1:{THREADS}", "-b", f"tcp://127.0.0.1:{port}", "config.ru"]
    log = folder / "server.log"
    with running(server, log, cwd=home, env=env) as process:
        wait_until(lambda: says(url + "/users/current.json", 401, process, log))
        yield Redmine(url, folder, keys, process)


def _copy(home: Path) -> None:
    """Copy Redmine, and replace links with their files, because relative links would be broken in the copy."""
    of_this_machine = shutil.ignore_patterns("instances", "Gemfile.lock", "database.yml")
    shutil.copytree(INSTALLED, home, ignore=of_this_machine)
    gemfile = home / "Gemfile"
    gemfile.write_text(gemfile.read_text().replace(f"{INSTALLED}/", f"{home}/"))
    for name in ("plugins", "tmp"):
        (home / name).mkdir(exist_ok=True)


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "RAILS_ENV": "production",
        "REDMINE_INSTANCE": "default",
        "REDMINE_LANG": "en",
        "VERBOSE": "false",
        "BUNDLE_GEMFILE": str(folder / "app" / "Gemfile"),
        "BUNDLE_USER_HOME": str(folder / "bundle"),
        "BUNDLE_SILENCE_ROOT_WARNING": "1",
        "SECRET_KEY_BASE": "of-tests-and-no-secret-" + "0" * 40,
    }


def _run(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
