"""A transport on httpx's own connections, for a version of aiohttp with which retrycli was not tried.

Each request opens a connection, because httpcore does not check whether the server has sent anything since its last
answer. httpcore names errors by what it was doing, so an error of connecting proves that nothing was sent.
"""

import ssl

import httpx


class NotConnected(httpx.TransportError):
    """No connection was made. The cause is the error of the certificate, if it was one."""


class FallbackTransport(httpx.AsyncHTTPTransport):
    """A transport without reused connections.

    Args:
        context: the TLS context.
        connections: the maximum number of concurrent requests.
    """

    def __init__(self, context: ssl.SSLContext, *, connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
        super().__init__(verify=context, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`.

        Raises:
            NotConnected: nothing was sent.
        """
        request.headers.setdefault("Host", request.url.netloc.decode("ascii"))  # aiohttp adds it by itself
        try:
            return await super().handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotConnected(str(error)) from _certificate_error(error)


def _certificate_error(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
