"""The gateway depends on internals of aiohttp: with a version without them it uses httpx's own connections."""

from __future__ import annotations

import pytest

from retrycli.gateway.http.transport import is_tried


class Renamed:
    """A connector whose hook method has another name."""

    async def _get_connection(self, key: object) -> None: ...


class Changed:
    """A connector whose hook method has a further parameter."""

    async def _get(self, key: object, traces: object, ceil: float) -> None: ...


class Session:
    """A session without ``_retry_connection``."""

    ATTRS = frozenset({"_retries"})


def test_the_installed_aiohttp_was_tried() -> None:
    assert is_tried()


@pytest.mark.parametrize("version", ["3.13.5", "3.99.0", "3.140.0", "4.0.0a1"])
def test_another_minor_release_was_not_tried(version: str) -> None:
    assert not is_tried(version)


@pytest.mark.parametrize("connector", [Renamed, Changed])
def test_a_hook_method_that_would_no_longer_be_called_is_found(connector: type) -> None:
    assert not is_tried(methods=[(connector, "_get", ("self", "key", "traces"))])


def test_a_switch_that_would_no_longer_be_honoured_is_found() -> None:
    assert not is_tried(session=Session)
