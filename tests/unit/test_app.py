"""What a pass is given of the settings."""

from __future__ import annotations

import pytest

from retrycli.app import pass_rules
from retrycli.settings import Settings


@pytest.mark.parametrize(
    ("url", "at_a_server"), [("sqlite:///desk.db", False), ("postgresql://retrycli@db.example.com/desk", True)]
)
def test_a_pass_knows_whether_its_messages_are_at_a_server(url: str, *, at_a_server: bool) -> None:
    settings = Settings.model_validate({"database": {"url": url}, "gateway": {"base_url": "https://api.example.com"}})
    assert pass_rules(settings).at_a_server == at_a_server
