"""Does the live page's memory stay level? Chromium looks at a running server's pages in turn and says each minute what it holds.

    nowcart demo &
    python -m benchmarks.page_memory http://127.0.0.1:8080 [--minutes 60]

The page goes from place to place as a person would, staying a while on each, so that what a place leaves behind is seen too. After a forced
collection: the heap of JavaScript in MB, nodes of the document, listeners, and the unshared memory of Chromium's renderer processes. The last
line is the change between the means of the second and of the last quarter. Chromium is led by its own protocol: a library for tests has
it record the network, which keeps every answer in the renderer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.serve.rig import CHROMIUM

PLACES = ("/", "/items", "", "/sessions", "/health")
"""What is looked at in turn; "" is the page of the first item in the list."""
STAY_S = 10.0


class Browser:
    """A page in Chromium, led by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)

    async def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """What a method answers.

        Args:
            method: of the protocol.
            values: its parameters.

        Raises:
            RuntimeError: it failed.
        """
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": values})
        while True:
            told = await self.socket.receive_json(timeout=60)
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return dict(told["result"])

    async def look(self, place: str) -> None:
        """Goes to a place and stays there for a while."""
        go = f"location.hash = '#{place}'" if place else "document.querySelector('.body .row').click()"
        told = await self.ask("Runtime.evaluate", expression=go)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{go}: {told['exceptionDetails']['text']}")
        await asyncio.sleep(STAY_S)


def renderers() -> int:
    """Bytes of anonymous memory of Chromium's renderer processes on this machine, from /proc."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                status = (process / "status").read_text()
                found += 1024 * int(status.partition("RssAnon:")[2].split()[0])
        except (OSError, IndexError):
            continue
    return found


async def watch(browser: Browser, minutes: int) -> list[float]:
    """Megabytes of the heap, minute by minute.

    Args:
        browser: that stands on the page.
        minutes: how long.
    """
    heaps: list[float] = []
    await browser.ask("Performance.enable")
    print(f"{'minute':>6} {'heap MB':>9} {'nodes':>8} {'listeners':>10} {'renderer MB':>12}", flush=True)
    began = time.monotonic()
    for minute in range(1, minutes + 1):
        while time.monotonic() - began < 60 * minute - STAY_S:
            for place in PLACES:
                await browser.look(place)
        await browser.look("/")
        await browser.ask("HeapProfiler.collectGarbage")
        told = {one["name"]: one["value"] for one in (await browser.ask("Performance.getMetrics"))["metrics"]}
        heaps.append(told["JSHeapUsedSize"] / 1e6)
        print(f"{minute:6} {heaps[-1]:9.2f} {told['Nodes']:8.0f} {told['JSEventListeners']:10.0f} {renderers() / 1e6:12.1f}", flush=True)
    return heaps


async def measure(url: str, minutes: int) -> None:
    """Starts Chromium, and prints what it holds.

    Args:
        url: of the server.
        minutes: how long.
    """
    if CHROMIUM is None:
        raise SystemExit("needs chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1280,800"]
        with subprocess.Popen([CHROMIUM, *options, url], stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                port = next(int(found[1]) for line in process.stderr if (found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
                async with aiohttp.ClientSession() as session:
                    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                        page = next(one for one in await answer.json() if one["type"] == "page")
                    async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                        heaps = await watch(Browser(socket), minutes)
            finally:
                process.kill()
    quarter = max(1, len(heaps) // 4)
    first, last = statistics.mean(heaps[quarter : 2 * quarter] or heaps), statistics.mean(heaps[-quarter:])
    print(f"heap: {first:.2f} MB in the second quarter, {last:.2f} MB in the last: {last - first:+.2f} MB")


def main() -> None:
    """From a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--minutes", type=int, default=60)
    args = parser.parse_args()
    asyncio.run(measure(args.url, args.minutes))


if __name__ == "__main__":
    main()
