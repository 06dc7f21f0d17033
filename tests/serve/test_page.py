"""The live page in a real Chromium: what it shows, that it moves, by keyboard and on a phone, and that it asks no stranger."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.rig import CHROMIUM, Rig, config, demand, intent, spike

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

ITEMS = 2_000
EVIL = "<img src=x onerror=document.title='evil'>"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        names = [f"item {n:05}" for n in range(ITEMS - 1)] + [EVIL]
        rig.give(
            "demand", [demand(name, hour, observed=(n * 7 + hour) % 50, mean=n % 40) for hour in range(3) for n, name in enumerate(names)]
        )
        rig.give("demand", [demand("item 00007", hour, observed=hour, mean=5.0) for hour in range(3, 20)])
        rig.give("intent", [intent(f"session-{n}", n / 50, n) for n in range(40)])
        rig.give("spikes", [spike("item 00007")])
        yield rig


class Sight:
    """A tab, and what it complained of."""

    def __init__(self, browser: Any, rig: Rig, **more: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **more})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.rig = rig

    def hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, place: str) -> Any:
        self.page.goto(f"{self.rig.server.url}#{place}")
        self.page.wait_for_selector("#main h1")
        return self.page


@pytest.fixture
def sight(browser: Any, rig: Rig) -> Iterator[Sight]:
    sight = Sight(browser, rig)
    yield sight
    sight.context.close()
    assert sight.complaints == []
    assert all(url.startswith((rig.server.url, "data:")) for url in sight.asked), "it asked a stranger"


def test_the_overview_says_how_things_stand_and_moves(sight: Sight, rig: Rig) -> None:
    page = sight.open("/")
    page.wait_for_selector("#card-items .value:text-is('2,000')")
    page.wait_for_selector("#status[data-state=live]")
    page.wait_for_selector("svg.fan .middle")
    assert page.inner_text("#card-sessions .value") == "40"
    assert "item 00007" in page.inner_text(".spikes")
    rig.give("spikes", [spike("item 00042", severity="warning")])
    page.wait_for_selector(".spikes >> text=item 00042")
    page.wait_for_selector("#card-spikes .value:text-is('2')")
    rig.give("spikes", [spike("item 00042", "resolved")])
    page.wait_for_selector("#card-spikes .value:text-is('1')")


def test_the_list_holds_all_items_and_draws_only_those_in_sight(sight: Sight) -> None:
    page = sight.open("/items")
    page.wait_for_selector("text=2,000 items")
    page.select_option("select[aria-label='Sort by']", "name")
    page.wait_for_selector(".row >> text=item 00003")
    assert page.locator(".body .row").count() < 60
    page.evaluate("document.querySelector('.body').scrollTop = 1e9")
    page.wait_for_selector(".row >> text=item 01998")
    assert page.locator(".body .row").count() < 60
    page.fill("#search", "0123")
    page.wait_for_selector("text=11 items")  # 01230 to 01239, and 00123
    page.fill("#search", "no such thing")
    page.wait_for_selector("text=No item’s name contains")
    page.fill("#search", "<img")
    page.wait_for_selector(f".row >> text={EVIL}")
    page.fill("#search", "")
    page.click("button:has-text('Change')")
    page.wait_for_selector("[aria-sort=descending] >> text=Change")
    page.click("button:has-text('Change')")
    page.wait_for_selector("[aria-sort=ascending] >> text=Change")


def test_a_keyboard_is_enough(sight: Sight) -> None:
    page = sight.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("/")
    page.wait_for_selector("#search")
    page.keyboard.press("/")
    page.keyboard.type("item 0000")
    page.wait_for_selector("text=10 items")
    page.keyboard.press("ArrowDown")
    first = page.evaluate("document.activeElement.textContent")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") != first
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('{name}')")
    page.wait_for_selector("svg.fan .middle")
    page.focus("svg.fan")
    page.keyboard.press("Home")
    assert page.inner_text(".tip strong")
    page.keyboard.press("End")
    assert "forecast" in page.inner_text(".tip")


def test_an_item_shows_what_sold_what_is_expected_and_what_was(sight: Sight, rig: Rig) -> None:
    page = sight.open("/items/item%2000007")
    page.wait_for_selector("svg.fan .band")
    assert page.locator("svg.fan .before.near").count() == 1
    page.check("#far")
    page.wait_for_selector("svg.fan .before.far")
    page.uncheck("#near")
    page.wait_for_selector("svg.fan .before.near", state="detached")
    assert "ewma 75" in page.inner_text(".weights")
    page.click("summary >> nth=0")
    assert page.locator("details tbody tr").count() == 20 + 24
    rig.give("demand", [demand("item 00007", 20, observed=4321, mean=6.0)])
    page.wait_for_selector(".figures >> text=4,321")
    page = sight.open(f"/items/{urllib.parse.quote(EVIL, safe='')}")
    page.wait_for_selector("svg.fan")
    assert page.inner_text("h1") == EVIL
    assert page.title() != "evil"


def test_an_item_that_nobody_knows_is_said_so(sight: Sight) -> None:
    page = sight.open("/items/item%20000077")
    page.wait_for_selector("text=Did you mean")
    sight.complaints = [text for text in sight.complaints if "404" not in text]  # the browser's own word for the answer


def test_sessions_move(sight: Sight, rig: Rig) -> None:
    page = sight.open("/sessions")
    page.wait_for_selector(".sessions tbody tr")
    assert page.locator(".sessions tbody tr").count() == 40
    rig.give("intent", [intent("session-0", 0.97, 60)])
    page.wait_for_selector(".sessions tbody tr:first-child >> text=session-0")
    page.click("text=session-0")
    page.wait_for_selector(".way-full")
    rig.give("intent", [intent("session-0", 0.123, 70)])
    page.wait_for_selector(".figures >> text=12.3")
    rig.give("intent", [intent("session-0", 0.0, 80)])


def test_it_says_when_it_is_old_and_goes_on(sight: Sight, rig: Rig) -> None:
    page = sight.open("/")
    page.wait_for_selector("#status[data-state=live]")
    rig.given.trouble = "no broker answers"
    page.wait_for_selector("#status[data-state=late]")
    assert "Kafka does not answer" in page.inner_text("#banner")
    rig.given.trouble = ""
    page.wait_for_selector("#status[data-state=live]")
    assert page.is_hidden("#banner")


@pytest.mark.parametrize("place", ["/", "/items", "/items/item%2000007", "/sessions", "/health"])
def test_it_fits_a_phone_and_every_control_has_a_name(browser: Any, rig: Rig, place: str) -> None:
    sight = Sight(browser, rig, viewport=PHONE, color_scheme="dark")
    page = sight.open(place)
    page.wait_for_selector("#status[data-state=live]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("h1").count() == 1
    assert page.locator("main, header, nav[aria-label]").count() >= 3
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, select, a, svg[role=img]')]
        .filter((n) => !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length)).map((n) => n.outerHTML)""")
    assert nameless == []
    assert page.evaluate(CONTRASTS) == []
    sight.context.close()
    assert sight.complaints == []


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > .99) return colour;
    }
    return [255, 255, 255];
  };
  const says = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll('main *, header *')].filter((node) => node.checkVisibility() && says(node) && !node.closest('svg'))
    .map((node) => {
      const [bright, dark] = [light(rgb(getComputedStyle(node).color)), light(back(node))].sort((x, y) => y - x);
      return [(bright + .05) / (dark + .05), node.className, node.textContent.slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast is less than what WCAG AA asks for."""


def test_light_has_contrast_too(browser: Any, rig: Rig) -> None:
    sight = Sight(browser, rig, color_scheme="light")
    for place, shown in (
        ("/", ".cards"),
        ("/items", ".body .row"),
        ("/items/item%2000007", ".band"),
        ("/sessions", ".sessions"),
        ("/health", ".figures"),
    ):
        page = sight.open(place)
        page.wait_for_selector(f"#main {shown}", state="attached")
        assert page.evaluate(CONTRASTS) == [], place
    sight.context.close()


def test_the_theme_can_be_chosen_and_stays(sight: Sight) -> None:
    page = sight.open("/")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.reload()
    page.wait_for_selector("#main h1", state="attached")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


def test_a_key_is_asked_for_where_one_is_needed(browser: Any) -> None:
    with Rig(config('[[serve.keys]]\nname = "x"\nsecret = "0123456789abcdef"')) as rig:
        rig.give("demand", [demand("tea", 0)])
        sight = Sight(browser, rig)
        page = sight.open("/items")
        page.fill("#ask-key", "wrong-wrong-wrong")
        page.click("#ask button")
        page.wait_for_selector("#ask[open]")
        page.fill("#ask-key", "0123456789abcdef")
        page.click("#ask button")
        page.wait_for_selector(".row >> text=tea")
        page.wait_for_selector("#status[data-state=live]")
        assert "0123456789abcdef" not in " ".join(sight.asked)
        sight.context.close()


@pytest.mark.slow
def test_the_demo_shows_its_page_with_the_engine_behind_it(browser: Any) -> None:
    pytest.importorskip("noida_db")
    command = [
        sys.executable,
        "-m",
        "stream.cli.main",
        "demo",
        "--items",
        "60",
        "--rate",
        "100",
        "--serve-port",
        "18080",
        "--seconds",
        "90",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.match(r"live page: (\S+)", line):
                break
        else:
            raise AssertionError(said)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(found[1])
        page.wait_for_selector("svg.fan .middle")
        page.wait_for_selector("#card-items .value:text-is('60')")
        page.wait_for_selector("#card-events dt:text-is('Events a second')")  # the engine's own metrics
        page.goto(f"{found[1]}#/items")
        page.click(".body .row a[href^='#/items/p']")
        page.wait_for_selector("svg.fan .band")
        page.close()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
