"""A real headless Chromium, driven over its DevTools pipe: no driver, no port, no further package."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The browser of $AGENTSFT_CHROMIUM, or the first of the usual names that is installed."""
    wanted = os.environ.get("AGENTSFT_CHROMIUM")
    return shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One browser with one tab. `requests`: what pages asked for; `errors`: what their scripts threw."""

    def __init__(self, path: str) -> None:
        self._home = tempfile.mkdtemp(prefix="agentsft-browser-")
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        actions = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        for stream in (1, 2):
            actions.append((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0))
        command = [path, *_FLAGS, f"--user-data-dir={self._home}", "about:blank"]
        self._process = os.posix_spawn(path, command, os.environ, file_actions=actions, setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and remove what it wrote."""
        for number in (self._in, self._out):
            os.close(number)
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        shutil.rmtree(self._home, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load a file and wait until its first row is shown."""
        self.requests.clear()
        self.errors.clear()
        self.resize(width, height)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url="about:blank")
        self.requests.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.body?.dataset.shown !== undefined || document.getElementById('row')?.childElementCount")

    def resize(self, width: int, height: int) -> None:
        """The size of the window, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", str(found)))
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; errors: {self.errors}")
            time.sleep(0.02)

    def box(self, selector: str) -> tuple[float, float]:
        """A point of the first line of the element, in the window; scrolled to if it is outside.

        Blocks get their height as they come into view and move what is behind them: it is looked at until it has
        stayed in its place and is what a click there would hit.
        """
        element = f"document.querySelector({json.dumps(selector)})"
        look = f"""new Promise(done => requestAnimationFrame(() => setTimeout(() => {{
            const e = {element}, b = e.getClientRects()[0];
            const at = [b.left + Math.min(b.width / 2, 8), b.top + b.height / 2];
            done([...at, e.contains(document.elementFromPoint(...at))]);
        }}, 20)))"""
        before, end = None, time.monotonic() + 10
        while True:
            self.js(f"{element}.scrollIntoView({{block: 'center'}})")
            x, y, hit = found = self.js(look)
            if found == before and hit:
                return x, y
            if time.monotonic() > end:
                raise TimeoutError(f"{selector} does not come to rest in sight: {found}")
            before = found

    def hover(self, selector: str) -> None:
        """Move the mouse onto an element."""
        x, y = self.box(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on an element with the mouse."""
        x, y = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """One key, by its DOM name."""
        more = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code.get(key, 0), **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code.get(key, 0))

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def shot(self, path: Path, whole: bool = False) -> None:
        """A screenshot, of the window or of the whole page."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], 60)
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser said nothing for a minute, or ended")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        seen: dict[str, Callable[[dict[str, Any]], None]] = {
            "Network.requestWillBeSent": lambda p: self.requests.append(p["request"]["url"]),
            "Runtime.exceptionThrown": lambda p: self.errors.append(json.dumps(p["exceptionDetails"])),
            "Log.entryAdded": lambda p: self.errors.append(p["entry"]["text"]),
        }
        if act := seen.get(event.get("method", "")):
            act(event["params"])


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above the numbers that the browser reads and writes."""
    made = []
    for end in os.pipe():
        made.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return made[0], made[1]
