"""The page in a real browser: live candles, pickers, docs; nothing loaded from elsewhere, no error in the console."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from app.main import WEB
from tests.end_to_end.commands import Demo, demo, open_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not (WEB / "app.js").exists(), reason="the page has not been built (make web)"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with open_folder() as folder, demo(Path(folder, "data"), "--history", "0.5") as up:
        yield up


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS, headless=True
        )
        yield context
        context.close()


@pytest.fixture
def page(browser: BrowserContext, running: Demo) -> Iterator[Page]:
    """A page that fails the test for any error in its console and any request to elsewhere."""
    complaints: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((running.address, running.address.replace("http", "ws"), "data:"))
            else complaints.append(f"loads {request.url}")
        ),
    )
    yield opened
    opened.close()
    assert complaints == []


def test_page_shows_live_candles_and_trades(page: Page, running: Demo) -> None:
    page.goto(running.address)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=15_000)
    expect(page.locator("#chart canvas").first).to_be_visible()
    expect(page.locator("#last")).to_have_text(re.compile(r"\d"))
    first = page.locator("#tape tbody tr").first
    before = first.inner_text(timeout=10_000)
    expect(first).not_to_have_text(before, timeout=10_000)


def test_page_picks_instrument_and_interval_and_keeps_them_in_the_address(page: Page, running: Demo) -> None:
    page.goto(running.address)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=15_000)
    page.locator("#intervals button", has_text="5m").first.click()
    expect(page.locator("#legend")).to_contain_text("5m")
    page.locator("#picker").click()
    page.locator("#picker-search").fill("ETH")
    page.locator("#picker-list li").first.click()
    expect(page.locator("#legend")).to_contain_text("ETH")
    assert "ETHUSDT" in page.url
    assert "interval=5m" in page.url


def test_docs_page_shows_every_operation(page: Page, running: Demo) -> None:
    page.goto(f"{running.address}/schema")
    expect(page.locator("#operations-market-getCandles")).to_be_visible(timeout=15_000)
    expect(page.locator(".opblock")).to_have_count(32)
