"""URLs of requests: a plain path is joined to its base URL without a parser, with the same result."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.gateway.http.request import url_below

BASES = (
    "http://127.0.0.1:8080",
    "https://Tickets.Example.com",
    "https://tickets.example.com:443/helpdesk",
    "http://[::1]:80/x/y",
    "https://bücher.example/a%20b",
)
STEPS = st.text("azAZ09_~.?=&-/ %ü;+'\\#@:", max_size=12)


@given(base=st.sampled_from(BASES), path=st.lists(STEPS, min_size=1, max_size=3).map("/".join))
def test_joining_a_url_gives_the_parsers_result(base: str, path: str) -> None:
    try:
        parsed = httpx.URL(f"{base}/{path}")
    except httpx.InvalidURL:
        with pytest.raises(httpx.InvalidURL):
            url_below(base, f"/{path}")
    else:
        below = url_below(base, f"/{path}")
        assert (str(below), below.raw_path) == (str(parsed), parsed.raw_path)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("path", ["/", "/api/tickets/12345/messages", "/a?b=c&d=%C3%A4", "/a?", "/x//y", "/a.b/c..d"])
def test_a_plain_path_needs_no_parser(base: str, path: str) -> None:
    below, parsed = url_below(base, path), httpx.URL(base + path)
    assert type(below) is not httpx.URL
    assert (str(below), below.raw_path) == (str(parsed), parsed.raw_path)


def test_a_path_that_is_too_long_is_an_invalid_url() -> None:
    with pytest.raises(httpx.InvalidURL):
        url_below(BASES[0], "/" + "a" * 70_000)
