"""TLS for connections to the ticketing API and the mail server."""

import ssl
from pathlib import Path

from retrycli.domain.errors import ConfigurationError
from retrycli.system.trust import require_trust


def verifying(ca_file: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's certificates and, if it is set, those in ``gateway.ca_file``.

    Raises:
        ConfigurationError: the file can't be used.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            require_trust(ca_file, "gateway.ca_file")
            context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"gateway.ca_file: can't use {ca_file}: not a valid file of PEM certificates"
            ) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a valid path"
            raise ConfigurationError(f"gateway.ca_file: can't use {ca_file}: {reason}") from error
    return context
