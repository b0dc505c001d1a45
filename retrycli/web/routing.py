"""Match routes against the path as the client sent it, so that an id may contain an encoded slash."""

from urllib.parse import quote, unquote

from starlette.routing import Match
from starlette.types import Scope

from retrycli.web.turns import RouteInTurn


class EncodedRoute(RouteInTurn):
    """A route whose parameters are decoded after the path was split at its slashes."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the encoded path, then decode the parameters."""
        return with_decoded(*super().matches({**scope, "path": encoded_route_path(scope), "root_path": ""}))


def encoded_path(scope: Scope) -> str:
    """Return a request's path, percent-encoded."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")


def encoded_route_path(scope: Scope) -> str:
    """Return the part of a request's path below the application's root, percent-encoded; empty if there is none.

    A client may encode the root in several ways, so its segments are compared one by one. An encoded slash in the root
    is refused, because a proxy with rules for paths sees another path then.
    """
    path, root = encoded_path(scope), str(scope.get("root_path", ""))
    if not root or not str(scope["path"]).startswith(root):
        return path
    segments, own = path.split("/"), root.split("/")
    is_below = [unquote(segment) for segment in segments[: len(own)]] == own
    return "/" + "/".join(segments[len(own) :]) if is_below else ""


def with_decoded(match: Match, found: Scope) -> tuple[Match, Scope]:
    """Decode the parameters of a match. Text that is not valid UTF-8 matches nothing."""
    try:
        decoded = {name: _decode(value) for name, value in found.get("path_params", {}).items()}
    except UnicodeDecodeError:
        return Match.NONE, {}
    return match, {**found, "path_params": decoded} if found else found


def _decode(value: object) -> object:
    return unquote(value, errors="strict") if isinstance(value, str) else value  # a mount may have other types
