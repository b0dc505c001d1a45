"""Gateways that other packages provide."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import Self

from retrycli.config import secret_text
from retrycli.config.gateway import GROUP, GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence
from retrycli.domain.sender import SendingFailed
from retrycli.engine.ports import Gateway
from retrycli.gateway.delivery import BaseGateway, DeliveryProgress, TimeLimit

logger = logging.getLogger("retrycli")

Factory = Callable[[GatewaySettings], AbstractAsyncContextManager[Gateway]]


class PackageGateway(BaseGateway):
    """Deliver through a gateway of another package. Use it as an asynchronous context manager.

    The package registers a factory as an entry point of the group `GROUP`. The factory gets the section of the
    settings, and returns an asynchronous context manager whose value is a `retrycli.engine.ports.Gateway`.

    Args:
        settings: the settings for the factory.
        section: the section's name, for errors.

    Raises:
        ConfigurationError: the factory can't be imported, or raised an exception.
    """

    def __init__(self, settings: GatewaySettings, *, section: str = "gateway") -> None:
        self._kind = settings.kind
        self._key = f"{section}.kind"
        self._seconds = settings.request_timeout_seconds
        self._secrets = [secret_text(settings.password), secret_text(settings.token)]
        self._gateway: Gateway | None = None
        try:
            self._context: AbstractAsyncContextManager[Gateway] = factory_of(self._kind)(settings)
        except ConfigurationError:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault("preparing", error) from error

    async def __aenter__(self) -> Self:
        """Open the package's gateway.

        Raises:
            ConfigurationError: it can't be opened.
        """
        try:
            self._gateway = await self._context.__aenter__()
        except ConfigurationError:
            raise
        except Exception as error:
            raise self._fault("opening", error) from error
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the package's gateway. An exception is only logged, because all outcomes are recorded."""
        try:
            await self._context.__aexit__(*error)  # type: ignore[arg-type]  # the three values that Python passes
        except Exception as fault:  # noqa: BLE001  the package's code may raise anything
            logger.error("Closing the gateway %s raised %s", self._kind, type(fault).__name__)  # noqa: TRY400  its text may hold secrets

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask the package's gateway whether a message has arrived."""
        assert self._gateway is not None  # noqa: S101  the gateway is open
        try:
            async with TimeLimit(self._seconds):
                found = await self._gateway.look_up(queued)
        except Exception as error:  # noqa: BLE001  the package's code may raise anything
            return LookUp(Presence.UNKNOWN, f"the gateway {self._kind} raised {type(error).__name__}")
        return found if isinstance(found, LookUp) else LookUp(Presence.UNKNOWN, f"the gateway {self._kind} is faulty")

    async def _prepare(self, queued: QueuedMessage) -> None:
        del queued

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        assert self._gateway is not None  # noqa: S101  the gateway is open
        progress.in_flight = True
        try:
            async with TimeLimit(self._seconds):
                outcome = await self._gateway.deliver(queued)
        except SendingFailed as failed:
            return failed.outcome
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  the package's code may raise anything
            # Omit the exception's text, because it may quote the message.
            return Outcome(OutcomeKind.UNKNOWN, error=f"the gateway {self._kind} raised {type(error).__name__}")
        if isinstance(outcome, Outcome) and (outcome.error or outcome.kind is OutcomeKind.DELIVERED):
            return outcome
        return Outcome(OutcomeKind.UNKNOWN, error=f"the gateway {self._kind} returned no outcome, or one without error")

    def _fault(self, doing: str, error: BaseException) -> ConfigurationError:
        return ConfigurationError(
            f"{self._key}: {doing} the gateway {self._kind} raised {type(error).__name__}; check its settings, or "
            "reinstall its package"
        )


def factory_of(kind: str) -> Factory:
    """Return the factory of a gateway. It has an attribute ``looks_up`` if its gateways can look up messages.

    Raises:
        ConfigurationError: it can't be imported.
    """
    entry = next(iter(entry_points(group=GROUP, name=kind)), None)
    if entry is None:
        raise ConfigurationError(f"gateway.kind: no installed package provides a gateway {kind!r}; install it")
    try:
        found: Factory = entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"gateway.kind: importing {entry.value} raised {type(error).__name__}; reinstall the package"
        ) from error
    return found
