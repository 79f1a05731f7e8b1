"""A real browser at the page, and what visitors do in it."""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium")
ROSE = ROOT / "service" / "gallery" / "images" / "photo-rose.webp"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium. Playwright's event loop runs until the block is left: other tests must not see it."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Visit:
    """A visitor's tab, with what the browser complained about and whom it asked."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._on_request)

    def open(self, address: str = "/") -> Page:
        self.page.goto(self.url + address)
        return self.page

    def forgive(self, pattern: str) -> None:
        """A test that provokes a refusal expects the browser to log it."""
        self.complaints = [text for text in self.complaints if not re.search(pattern, text)]

    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.requests if not url.startswith(("blob:", "data:"))}

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Visit]:
    """A new tab. Whatever is done in it, nothing is complained about and no other host is asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    current = Visit(context.new_page(), url)
    yield current
    context.close()
    assert current.complaints == []
    assert current.hosts() <= {urlsplit(url).netloc}


def stock(url: str) -> None:
    """A collection "shop" of awkward items: markup in a title, a slash and more in an id, text alone."""
    url = f"{url}/v1/collections/shop"
    assert httpx2.put(url).status_code in (200, 201)
    picture = {"base64": base64.b64encode(ROSE.read_bytes()).decode()}
    items: list[dict[str, Any]] = [
        {"id": "a/b c?d#e%2Fé", "image": picture, "metadata": {"title": "<img src=x onerror=alert(1)>"}},
        {"id": "note", "text": "a bouquet of red roses"},
    ]
    written = httpx2.put(f"{url}/items", json={"items": items}, timeout=30).json()
    assert written["errors"] is False


def ask(page: Page, words: str) -> None:
    page.get_by_role("searchbox").fill(words)
    page.keyboard.press("Enter")


def search(page: Page, words: str) -> None:
    ask(page, words)
    expect(page.locator("#results .score").first).to_be_visible()


def hand_over(page: Page, event: str, files: list[tuple[str, str, bytes]]) -> None:
    """Dispatch a drop or a paste that carries real files, as a file manager or a clipboard would."""
    page.evaluate(
        """([event, files]) => {
            const transfer = new DataTransfer();
            for (const [name, type, data] of files) {
                const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type }));
            }
            const options = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(
                event === "paste"
                    ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
                    : new DragEvent(event, { ...options, dataTransfer: transfer })
            );
        }""",
        [event, [(name, media, base64.b64encode(data).decode()) for name, media, data in files]],
    )


def drop(page: Page, name: str, media: str, data: bytes) -> None:
    hand_over(page, "dragover", [(name, media, data)])
    expect(page.locator("#drop")).to_be_visible()
    hand_over(page, "drop", [(name, media, data)])
    expect(page.locator("#drop")).to_be_hidden()
