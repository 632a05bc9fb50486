"""A real Chromium, driven over its debugging pipe; nothing but the standard library is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
PATIENCE = 30.0
_KEYS = {"Enter": "\r", "Tab": "", "ArrowLeft": "", "ArrowRight": ""}


class Refused(AssertionError):
    """The browser answered with an error."""


class Browser:
    """One headless Chromium; a context manager."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        (read_in, self._write), (self._read, write_out) = os.pipe(), os.pipe()
        words = ["bash", "-c", f'exec "$@" 3<&{read_in} 4>&{write_out}', "-", CHROMIUM, *FLAGS]
        self._process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_in, write_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_in)
        os.close(write_out)
        self._number, self._rest, self.events = 0, b"", list[dict[str, Any]]()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call one method of the protocol and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise Refused(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._read, 1 << 16)
            assert read, "the browser ended"
            self._rest += read
        first, self._rest = self._rest.split(b"\0", 1)
        return json.loads(first)

    def open(self, url: str, *, apart: bool = False) -> Page:
        """A new tab; ``apart``: of another person, who shares no storage with the rest."""
        context = {"browserContextId": self.send("Target.createBrowserContext")["browserContextId"]} if apart else {}
        target = self.send("Target.createTarget", url=url, **context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable", session)
        return Page(self, session)

    def complaints(self) -> list[str]:
        """What pages wrote to the console as an error: exceptions, refusals of the content policy, failed requests."""
        found = []
        for event in self.events:
            entry = event.get("params", {}).get("entry", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"])[:500])
            elif event["method"] == "Log.entryAdded" and entry["level"] == "error":
                found.append(entry["text"])
        return found

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call one method of the protocol on this tab."""
        return self._browser.send(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def wait(self, script: str, what: str = "") -> Any:
        """Wait until a JavaScript expression is true, across the loading of another document too."""

        def check() -> Any:
            try:
                return self.run(script)
            except Refused as error:  # the document went away while the answer was awaited
                if "context" not in str(error) and "navigated" not in str(error):
                    raise
                return None

        return wait_for(check, what or script)

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press and let go of keys, one after another."""
        for key in keys:
            text = _KEYS.get(key, key)
            common = {"key": key, "code": key if len(key) > 1 else "", "modifiers": 8 if shift else 0}
            codes = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}
            common["windowsVirtualKeyCode"] = codes.get(key, ord(key.upper()[0]))
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def show_as(self, width: int, height: int, scheme: str = "light") -> None:
        """Lay the page out for a screen and a colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def wait_for(check: Callable[[], Any], what: str) -> Any:
    """Wait until ``check`` gives something true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")
