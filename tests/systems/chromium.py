"""A real headless Chromium, controlled by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP desk.example.com 127.0.0.1",
)
PATIENCE = 30
"""Seconds within which Chromium must open a page, and must end."""
NOISE = {"console": "Runtime.consoleAPICalled", "log": "Log.entryAdded", "exception": "Runtime.exceptionThrown"}


@dataclass
class Seen:
    """The result of opening a page."""

    width: int
    content_width: int
    """The width of the page. It exceeds the width of the window if the page overflows."""
    height: int
    picture: bytes
    """A PNG of the whole page."""
    complaints: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Chromium:
    """One browser, with one open page."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._out = commands
        self._in = answers
        self._number = 0
        self._width = 0
        self._events: list[dict[str, Any]] = []
        page = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": page, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._page(f"{domain}.enable")
        self._page("Emulation.setFocusEmulationEnabled", {"enabled": True})

    def look(self, file: Path, *, width: int, dark: bool = False, height: int = 800, scale: float = 1) -> Seen:
        """Open a file in a window of the given width, in light or dark mode."""
        self.resize(width, dark=dark, height=height, scale=scale)
        self.open(file.absolute().as_uri())
        return self.see()

    def resize(self, width: int, *, dark: bool = False, height: int = 800, scale: float = 1) -> None:
        """Set the size of the window, and light or dark mode."""
        self._width = width
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        self._page("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._page("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, address: str) -> None:
        """Open an address, and wait until the page has loaded."""
        self._events.clear()
        self._page("Page.navigate", {"url": address})
        self._loaded()

    def _loaded(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            assert time.monotonic() < deadline, "no page was opened"
            self._call("Browser.getVersion")  # its answer follows the events so far
            time.sleep(0.01)

    def see(self) -> Seen:
        """Return what the open page looks like, and the browser's complaints since it was opened."""
        width = self._width
        size = self._page("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        picture = self._page("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        told = self.complaints()
        asked = [event["params"]["request"]["url"] for event in self._events if "request" in event["params"]]
        return Seen(width, size["width"], size["height"], base64.b64decode(picture["data"]), told, asked)

    def find(self, script: str) -> Any:  # noqa: ANN401  any JSON value
        """Return the value of a JavaScript expression in the open page. A promise is awaited."""
        answer = self._page("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def run_first(self, script: str) -> None:
        """Run a script in each page that is opened from now on, before the page's own scripts."""
        self._page("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    def complaints(self) -> list[dict[str, Any]]:
        """Return what the browser has complained about since the page was opened."""
        self.find("1")  # the answer follows all earlier events
        return [event for event in self._events if event["method"] in NOISE.values()]

    def set_cookie(self, name: str, value: str, address: str) -> None:
        """Store a cookie for an address."""
        self._page("Network.setCookie", {"name": name, "value": value, "url": address})

    def move_to(self, zone: str) -> None:
        """Set the browser's time zone; an empty name restores that of the machine."""
        self._page("Emulation.setTimezoneOverride", {"timezoneId": zone})

    def run_scripts(self, *, enabled: bool) -> None:
        """Switch the scripts of pages on or off."""
        self._page("Emulation.setScriptExecutionDisabled", {"value": not enabled})

    def press(self, key: str, *, opens: bool = False) -> None:
        """Press and release a key. If it opens another page, wait until that page has loaded."""
        if opens:
            self._events.clear()
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        name = {"Space": " "}.get(key, key)
        code = {"Enter": 13, "Tab": 9, "Space": 32, "Escape": 27}.get(key, ord(key.upper()) if len(key) == 1 else 0)
        down = {"key": name, "windowsVirtualKeyCode": code, "text": text}
        self._page("Input.dispatchKeyEvent", {"type": "keyDown" if text else "rawKeyDown", **down})
        self._page("Input.dispatchKeyEvent", {"type": "keyUp", "key": name, "windowsVirtualKeyCode": code})
        if opens:
            self._loaded()

    def type(self, text: str) -> None:
        """Insert a text where the focus is."""
        self._page("Input.insertText", {"text": text})

    def type_keys(self, text: str) -> None:
        """Press the key of each character, as for a list that is searched by its first letters."""
        for character in text:
            self.press("Space" if character == " " else character)

    def select_all(self) -> None:
        """Select the whole text of the focused field."""
        self._page("Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": "a", "commands": ["selectAll"]})
        self._page("Input.dispatchKeyEvent", {"type": "keyUp", "key": "a"})

    def clear_cookies(self) -> None:
        """Delete all cookies."""
        self._page("Network.clearBrowserCookies")

    def cut_off(self, *, offline: bool) -> None:
        """Cut the browser off from the network, or connect it again."""
        none = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._page("Network.emulateNetworkConditions", {"offline": offline, **none})

    def _page(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._call(method, params, sessionId=self._session)

    def _call(self, method: str, params: dict[str, Any] | None = None, **more: str) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}, **more}
        self._out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        """Read the next answer or event."""
        pieces = bytearray()
        while (piece := self._in.read(1)) != b"\0":
            assert piece, "Chromium has gone"
            pieces += piece
        message: dict[str, Any] = json.loads(pieces)
        if "method" in message:
            self._events.append(message)
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """Run a browser with an empty profile in its own folder for a `with` block."""
    assert PROGRAM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    handed_over = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the descriptors that Chromium uses
    command = ["bash", "-c", handed_over, PROGRAM, *QUIET, f"--user-data-dir={folder / 'profile'}"]
    env = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log, env=env)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_out, "wb", buffering=0) as commands, os.fdopen(ours_in, "rb") as answers:
            yield Chromium(commands, answers)
        process.wait(PATIENCE)  # Chromium ends when its command pipe is closed
    finally:
        process.kill()
        process.wait()
