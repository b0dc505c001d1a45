"""Settings of ``retrycli serve``: where it listens, and who may use it."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from retrycli.config.section import Named, SettingsModel, matching, split_list

RootPath = Annotated[
    str,
    matching(
        r"(?!/(messages|api)(/|$))(/[A-Za-z0-9._~-]+)*",
        "write a path such as /desk, without a final slash; it must not begin with /messages or /api",
    ),
]
# RFC 9110, section 5.6.2, defines the characters of a header's name.
HeaderName = Annotated[
    str, matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "write the name of an HTTP header, such as X-Remote-User")
]


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(names, 1):
        if not name or any(sign in name for sign in "/@ \t"):
            raise ValueError(f"name {number} is not a host name; write it like desk.example.com")
    return tuple(name.lower() for name in names)


class WebSettings(SettingsModel):
    """Settings of the HTTP API and the console, as `retrycli serve` runs them."""

    tokens_file: Named | None = Field(
        None, description="the file of the users' tokens; `serve token add` writes it, and only its owner may read it"
    )
    host: Annotated[str, matching(r"\S+", "write a host name or an IP address")] = Field(
        "127.0.0.1", description="the address on which to listen"
    )
    port: int = Field(8003, ge=0, le=65_535, description="the TCP port on which to listen; 0 for any free port")
    uds: Named | None = Field(None, description="a Unix socket on which to listen, instead of host and port")
    root_path: RootPath = Field(
        "", description="the path under which a reverse proxy serves the console, such as /desk"
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(_hosts)] = Field(
        (), description="the host names that browsers may use; the names of this machine are always allowed"
    )
    read_only: bool = Field(default=False, description="whether nobody may change anything over HTTP")
    user_header: HeaderName | None = Field(
        None, description="the header in which a reverse proxy passes the user's name; needs web.uds"
    )
