"""The ``sandbox`` and ``demo`` commands: a simulated ticketing API, and an example database."""

import random
import signal
from datetime import timedelta
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.serve import run_console
from retrycli.domain import suggested
from retrycli.domain.duration import duration
from retrycli.domain.sanitize import printable
from retrycli.views import formatting


def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listen on this port of 127.0.0.1; 0 chooses a free one.")
    ] = 8808,
    fail: Annotated[str, typer.Option(help="Fail this share of deliveries, such as 30% or 0.3.")] = "0%",
    latency: Annotated[
        timedelta | None,
        typer.Option(
            help="Delay each response by this long, for example 200ms or 2s.",
            metavar="<duration>",
            show_default="0s",
            parser=duration,
        ),
    ] = None,
    down: Annotated[bool, typer.Option("--down", help="Answer every request with 503.")] = False,
    throttle: Annotated[
        bool, typer.Option("--throttle", help="Answer with 429 beyond 10 deliveries a second.")
    ] = False,
) -> None:
    """Simulate a ticketing API on loopback. GET /received shows the messages that it has received."""
    try:
        behaviour = operations.sandbox.Behaviour(operations.sandbox.share(fail), latency or timedelta(), down, throttle)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fail") from None
    try:
        server = operations.sandbox.Sandbox(behaviour, rng=random.Random(), port=port, listener=_show_request)  # noqa: S311  not used for secrets
    except OSError as error:
        raise typer.BadParameter(f"can't listen on {port}: {error.strerror}", param_hint="--port") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server:
        typer.echo(f"Simulating a ticketing API at {server.url}; press Ctrl-C to stop it.")
        typer.echo(suggested.own(f"Next: TICKETING_API_BASE_URL={server.url} retrycli run-once"))
        try:
            server.wait()
        except KeyboardInterrupt:
            typer.echo(f"Received {formatting.count(len(server.received), 'message')}.")


def _show_request(method: str, path: str, delivery_key: str | None, status: int) -> None:
    key = f"  key {printable(delivery_key)}" if delivery_key else ""
    typer.echo(f"{status}  {method} {printable(path)}{key}")


def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Serve the console over the example database.")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Show how retrycli uses a table with other columns, UUIDs and statuses.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --serve: the port to listen on.", show_default="8003")
    ] = None,
) -> None:
    """Try retrycli on an example database."""
    if serve and table:
        raise typer.BadParameter("choose --serve or --table", param_hint="--table")
    if not serve:
        if port is not None:
            raise typer.BadParameter("works only with --serve; add it", param_hint="--port")
        operations.demo.run_with_table() if table else operations.demo.run()
        return
    with operations.demo.served() as (settings, token):
        run_console(settings, {"port": port}, f"Sign in with this token: {token}")
