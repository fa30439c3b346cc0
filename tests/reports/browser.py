"""Chromium driven over its debugging pipe: JSON messages that end with a zero byte, the standard library alone."""

import base64
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

__all__ = ["Browser"]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip

PATIENCE = 60.0
"""Seconds that an answer may take on a busy machine."""


class Browser:
    """One page of a headless Chromium.

    Attributes:
        requests: addresses that the page asked for since it was opened, the page's own among them.
        complaints: console errors, exceptions and violations of the page's policy since it was opened.
    """

    def __init__(self, chromium: str, profile: Path) -> None:
        given, self._write = os.pipe()
        self._read, taken = os.pipe()
        # Chromium reads descriptor 3 and writes descriptor 4. High numbers first, so that neither overwrites the other.
        low = [given, taken]
        given, taken = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 20) for each in low)
        nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, given, 3), (os.POSIX_SPAWN_DUP2, taken, 4)]
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = os.posix_spawn(chromium, command, os.environ, file_actions=[*nowhere, *pipes])
        for each in (*low, given, taken):
            os.close(each)
        os.set_blocking(self._read, False)
        self._buffer, self._last, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; what the page tells meanwhile is kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._hear(answer)

    def _next(self) -> Mapping[str, Any]:
        patient_until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            try:
                self._buffer += os.read(self._read, 1 << 20)
            except BlockingIOError:
                assert time.monotonic() < patient_until, "Chromium does not answer"
                time.sleep(0.005)
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def _hear(self, event: Mapping[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:600])
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(told["args"])[:600])

    def look(self, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Sets the size of the window and the theme of the system."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def open(self, address: str) -> None:
        """Opens an address and waits until the page's script has run."""
        self.ask("Page.navigate", url="about:blank")
        self.requests.clear()
        self.complaints.clear()
        self.ask("Page.navigate", url=address)
        patient_until = time.monotonic() + PATIENCE
        while not self.value("document.documentElement?.dataset.ready || ''"):
            assert time.monotonic() < patient_until, f"the page's script did not end: {self.complaints}"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """Returns the value of an expression in the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, json.dumps(result["exceptionDetails"])[:800]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r" if key == "Enter" else "",
                     windowsVirtualKeyCode={"Enter": 13, "Tab": 9}.get(key, 0))  # fmt: skip

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Keeps a picture of the window, or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self._session = ""
        try:
            self.ask("Browser.close")
        finally:
            os.close(self._write)
            os.close(self._read)
            os.waitpid(self._process, 0)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the browser."""
        self.close()
