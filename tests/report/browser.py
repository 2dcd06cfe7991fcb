"""A headless Chromium for tests, driven over WebDriver's plain HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROME = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
"""The last one: whatever the page asks the network for, it does not get."""


class Browser:
    """One window; use as a context manager."""

    def __init__(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.profile = tempfile.mkdtemp(prefix="vlaprune-browser-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = subprocess.Popen(
            [DRIVER or "", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{port}"
        self.session = ""
        flags = [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={self.profile}"]
        if dark:
            flags.append("--blink-settings=preferredColorScheme=0")
        options = {"binary": CHROME, "args": flags}
        log = {"goog:loggingPrefs": {"browser": "ALL"}}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, **log}}
        self._wait_for_server()
        started = self._ask("POST", "/session", {"capabilities": wanted})
        self.session = f"/session/{started['sessionId']}"

    def _wait_for_server(self) -> None:
        for _ in range(100):
            try:
                if self._ask("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise RuntimeError("chromedriver does not answer")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + self.session + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self._ask("POST", "/url", {"url": path.absolute().as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """Wait until a script returns something true, and return that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}")

    def _find(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def click(self, selector: str) -> None:
        """A real click: fails where something lies over the element."""
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def errors(self) -> list[str]:
        """What the page complained of on its console."""
        log = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def paper(self, width: int, height: int) -> None:
        """Show the page as it is laid out for printing, on a sheet of that size (pixels)."""
        self.run("window.dispatchEvent(new Event('beforeprint'))")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for command, parameters in (
            ("Emulation.setEmulatedMedia", {"media": "print"}),
            ("Emulation.setDeviceMetricsOverride", size),
        ):
            self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def picture(self) -> bytes:
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self.server.terminate()
            self.server.wait(10)
            shutil.rmtree(self.profile, ignore_errors=True)
