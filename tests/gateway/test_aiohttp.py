"""The gateway depends on internals of aiohttp: a version without them is refused before the first message."""

from __future__ import annotations

import aiohttp
import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.gateway.http.transport import check_aiohttp


class Renamed:
    """A connector whose hook method has another name."""

    async def _get_connection(self, key: object) -> None: ...


class Changed:
    """A connector whose hook method has a further parameter."""

    async def _get(self, key: object, traces: object, ceil: float) -> None: ...


class Session:
    """A session without ``_retry_connection``."""

    ATTRS = frozenset({"_retries"})


def test_accepts_the_installed_aiohttp() -> None:
    check_aiohttp()


@pytest.mark.parametrize("connector", [Renamed, Changed])
def test_names_a_hook_method_that_would_no_longer_be_called(connector: type) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_aiohttp([(connector, "_get", ("self", "key", "traces"))])
    assert str(refused.value) == (
        f"aiohttp {aiohttp.__version__} lacks {connector.__name__}._get(key, traces), which safe delivery requires; "
        f"install an older version: pip install 'aiohttp>=3.13.4,<{aiohttp.__version__}'"
    )


def test_names_a_switch_that_would_no_longer_be_honoured() -> None:
    with pytest.raises(ConfigurationError, match=r"lacks Session\._retry_connection, which safe delivery requires"):
        check_aiohttp(session=Session)
