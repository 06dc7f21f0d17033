"""How quick the live page is in Chromium: the first paint, when data stands there, and how long a record takes to be seen.

    python -m benchmarks.page [--items 10000] [--rounds 10]

The server is the one that `nowcart serve` runs, on loopback; its records come from this script, as the engine publishes them. A record is given
its time when it is handed to the server, and seen when its number stands in the page. Prints medians and the worst, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.serve.rig import CHROMIUM, Rig, config, demand, intent, spike

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
PLACES = {
    "/": "svg.fan .actual",
    "/items": ".body .row .spark-line",
    "/items/item%2000007": "svg.fan .band",
    "/sessions": ".sessions tbody tr th",
    "/health": ".figures .value",
}


def opened(browser: Any, url: str, shown: str) -> tuple[float, float]:
    """Milliseconds until the first paint, and until data stands there; with nothing in the browser's cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(shown, state="attached")
    full = 1000 * (time.perf_counter() - began)
    page.wait_for_function(f"{PAINT} > 0")
    paint = float(page.evaluate(PAINT))
    context.close()
    return paint, full


def told(what: str, values: list[float]) -> None:
    print(f"{what:46} {statistics.median(values):7.0f} {max(values):7.0f}", flush=True)


def seen(page: Page, give: Callable[[int], None], shown: Callable[[int], str], rounds: int) -> list[float]:
    """Milliseconds from records to their being seen; round by round another number, between two ticks of whatever the page waits for."""
    found = []
    for number in range(rounds):
        page.wait_for_timeout(1_000 + 137 * number % 500)
        began = time.perf_counter()
        give(number)
        page.wait_for_selector(shown(number), state="attached")
        found.append(1000 * (time.perf_counter() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    names = [f"item {n:05}" for n in range(args.items)]
    with Rig(config()) as rig, sync_playwright() as playwright:
        for hour in range(24):
            rig.give("demand", [demand(name, hour, observed=(n * 7 + hour) % 50, mean=n % 40) for n, name in enumerate(names)])
        rig.give("intent", [intent(f"session-{n}", n / 50, n) for n in range(40)])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        print(f"{args.items} items, milliseconds{'median':>33} {'worst':>7}")
        for place, shown in PLACES.items():
            times = [opened(browser, f"{rig.server.url}#{place}", shown) for _ in range(args.rounds)]
            told(f"{place}: first paint", [paint for paint, _ in times])
            told(f"{place}: data stands there", [full for _, full in times])
        page = browser.new_page(viewport={"width": 1280, "height": 800})

        def go(place: str) -> None:
            page.goto(f"{rig.server.url}#{place}")
            page.wait_for_selector("#status[data-state=live]")
            page.wait_for_selector(PLACES.get(place, "#main"), state="attached")

        go("/")
        told(
            "a spike, on the overview",
            seen(page, lambda n: rig.give("spikes", [spike(f"item {n:05}")]), lambda n: f".spikes >> text=item {n:05}", args.rounds),
        )
        go("/items/item%2000007")
        told(
            "a closed bucket, on its item",
            seen(
                page,
                lambda n: rig.give("demand", [demand("item 00007", 24 + n, observed=70_001 + n)]),
                lambda n: f".figures >> text={70_001 + n:,}",
                args.rounds,
            ),
        )
        ticks = [[demand(name, 50 + n, observed=80_000 + n if i == n else 1) for i, name in enumerate(names)] for n in range(args.rounds)]
        go("/items")
        page.select_option("select[aria-label='Sort by']", "latest")
        told(
            "a closed bucket of all items, in their list",
            seen(
                page,
                lambda n: rig.give("demand", ticks[n]),
                lambda n: f".body .row >> nth=0 >> text=item {n:05}",
                args.rounds,
            ),
        )
        go("/sessions")
        told(
            "a probability, among the sessions",
            seen(
                page,
                lambda n: rig.give("intent", [intent(f"session-{n}", 0.97 + n / 1000, 60 + n)]),
                lambda n: f".sessions tbody tr:first-child >> text=session-{n}",
                min(args.rounds, 20),
            ),
        )
        browser.close()


if __name__ == "__main__":
    main()
