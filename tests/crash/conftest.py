"""What tests of passes that come to grief need: a database of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Factory


@pytest.fixture
def url(engine: Factory, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    with engine(tmp_path, None) as made:
        yield made
