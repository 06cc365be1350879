"""A headless Chromium for tests of pages: real keys and clicks, and everything that a page asks for or complains of.

Chromium is spoken to through its debugging protocol over two pipes, which needs no package and no port.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

__all__ = ["Browser"]

# Chromium reads commands from descriptor 3 and writes to 4, which may be anybody's here.
_START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
_TIMEOUT_S = 90.0
_KEYS: Mapping[str, tuple[int, str]] = {
    "Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " "), "ArrowDown": (40, ""),
}  # fmt: skip


class Browser:
    """One browser with one page.

    Attributes:
        console: what the page and the browser said: errors, warnings, refusals of the content security policy.
        requests: every address that was asked for, allowed or not; not what is in the page itself.
    """

    def __init__(self, profile: Path) -> None:
        chromium = shutil.which("chromium")
        if chromium is None:
            if os.environ.get("CI"):
                pytest.fail("CI needs chromium to open pages")
            pytest.skip("chromium is not installed")
        self.console: list[str] = []
        self.requests: list[str] = []
        self._number, self._buffer, self._scripts = 0, b"", True
        self._loaded: set[str] = set()
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", _START, str(to_read), str(to_write), chromium, "--headless", "--no-sandbox",
                "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
                "--remote-debugging-pipe", "about:blank",
            ],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None
        page = self._first_page()
        attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)
        self.size(1200, 900)

    def _first_page(self) -> dict[str, Any]:
        """The page that it opens by itself, a moment after it answers."""
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            for target in self.send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return dict(target)
            time.sleep(0.05)
        raise AssertionError("the browser opens no page")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        try:
            self.send("Browser.close")
        except (OSError, EOFError):
            self._process.kill()
        self._process.wait(_TIMEOUT_S)
        os.close(self._write)
        os.close(self._read)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise EOFError("the browser does not answer")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, content: Mapping[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(item.get("value", item.get("description"))) for item in content["args"]))
        elif method == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded":
            self.console.append(f"{content['entry']['level']}: {content['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            if not content["request"]["url"].startswith("data:"):  # pictures that are in the page
                self.requests.append(content["request"]["url"])
        elif method == "Page.lifecycleEvent" and content["name"] == "load":
            self._loaded.add(content["loaderId"])

    def open(self, page: Path | str, *, scripts: bool = True) -> None:
        """Load a page anew, and wait until it is there."""
        self._scripts = scripts
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        address = page.as_uri() if isinstance(page, Path) else page
        self._go("about:blank")
        self.requests.clear()
        self._go(address)
        self.settle()

    def _go(self, address: str) -> None:
        # Of this navigation: a load that was told late would be taken for it.
        loader = self.send("Page.navigate", url=address)["loaderId"]
        while loader not in self._loaded:
            self._receive()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        if self._scripts:
            self.run("new Promise(done => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 0)), 20))")

    def run(self, script: str) -> Any:
        """The value of a script expression; a promise is waited for."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"].get("exception", found["exceptionDetails"]))
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a script expression holds: for what the browser does in its own time, such as going back."""
        self.run(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"
        )

    def text(self, selector: str) -> list[str]:
        """The text of every element that a selector finds, as a reader sees it."""
        return list(self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText.trim())"))

    def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getClientRects()[0];"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        place = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **place)
        self.settle()

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after the other."""
        for key in keys:
            code, text = _KEYS.get(key, (ord(key[0].upper()), key))
            event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
            self.send("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
            self.send("Input.dispatchKeyEvent", type="keyUp", **event)
        self.settle()

    def type(self, selector: str, text: str) -> None:
        """Put the focus into a field, empty it and write into it."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.send("Input.insertText", text=text)
        self.settle()

    def back(self) -> None:
        """The browser's own button."""
        history = self.send("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        self.send("Page.navigateToHistoryEntry", entryId=entry["id"])
        self.until(f"location.href === {json.dumps(entry['url'])}")
        self.settle()

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the window in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, on: bool = True) -> None:
        """Whether the reader prefers a dark page."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """A picture of the page, by default from top to end."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        found = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(found["data"])
