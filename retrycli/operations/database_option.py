"""Take the database's URL from an option of a command instead of the settings."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, RetrycliError


def with_database(settings: Settings, url: str | None, option: str) -> Settings:
    """Return settings with another ``database.url``, unless it is None.

    Raises:
        ConfigurationError: the URL is not valid. The error names the option.
    """
    if url is None:
        return settings
    try:
        database = settings.database.model_validate({**settings.database.model_dump(), "url": url})
    except ValidationError as error:
        reasons = "; ".join(
            problem["msg"].removeprefix("Value error, ") for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(f"{option}: {reasons}") from None
    return settings.model_copy(update={"database": database})


@contextmanager
def naming_option(option: str | None) -> Iterator[None]:
    """In errors, replace the name of the setting database.url with the option that overrides it, if any."""
    try:
        yield
    except RetrycliError as error:
        if option is None:
            raise
        raise type(error)(re.sub(r"database\.url( \(RETRYCLI_DATABASE__URL\))?", option, str(error))) from error
