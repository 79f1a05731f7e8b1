"""The page at / where keys are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import ask, launched, search, stock, visiting
from tests.conftest import start_server
from tests.guarded import WRONG, bearer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@dataclass
class Locked:
    """A server that asks for keys, with the collection "shop"."""

    url: str
    admin: dict[str, Any]

    def key(self, **wanted: Any) -> dict[str, Any]:
        """A new key, as it is shown this once."""
        made = httpx2.post(f"{self.url}/v1/keys", json=wanted, headers=bearer(self.admin["key"]))
        assert made.status_code == 201
        return cast(dict[str, Any], made.json())


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    running = start_server(tmp_path_factory.mktemp("locked"), "--no-worker")
    stock(running.url)
    first = httpx2.post(f"{running.url}/v1/keys", json={"name": "ops", "scope": "admin"})
    yield Locked(running.url, first.json())
    assert running.stop() == 0, "".join(running.output)


def shown(page: Page, selector: str) -> str:
    """The address of a picture, once it is drawn."""
    image = page.locator(selector)
    expect(image).to_be_visible()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    return image.get_attribute("src") or ""


def give_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(browser: Browser, locked: Locked) -> None:
    made = locked.key(name="reader", scope="read")
    with visiting(browser, locked.url) as visit:
        page = visit.open()
        expect(page.get_by_role("alert")).to_contain_text("asks for a key")
        expect(page.locator("#results li")).to_have_count(0)
        give_key(page, WRONG)
        expect(page.get_by_role("alert")).to_contain_text("not known here")
        assert page.evaluate("sessionStorage.length") == 0
        give_key(page, f"  {made['key']}\u200b ")
        expect(page.locator("#results li")).to_have_count(2)
        expect(page.get_by_role("alert")).to_be_empty()
        assert shown(page, "#results img").startswith(f"blob:{locked.url}/")
        assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 1]
        page.get_by_role("button", name="More like: <img").click()
        expect(page.locator("#results q")).to_have_text("a bouquet of red roses")
        assert shown(page, "#chip img").startswith(f"blob:{locked.url}/")
        page.reload()
        expect(page.locator("#results .score")).to_have_count(1)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.get_by_label("API key")).to_be_visible()
        assert all(made["key"] not in url for url in visit.requests)
        prefix = made["about"]["prefix"]
        httpx2.delete(f"{locked.url}/v1/keys/{prefix}", headers=bearer(locked.admin["key"]))
        ask(page, "roses")
        expect(page.get_by_role("alert")).to_contain_text("was revoked")
        assert page.evaluate("sessionStorage.length") == 0
        visit.forgive("status of 401")


def test_a_key_for_one_collection_opens_the_page_at_it(browser: Browser, locked: Locked) -> None:
    made = locked.key(name="shop", scope="read", collections=["shop"])
    with visiting(browser, locked.url) as visit:
        page = visit.open()
        give_key(page, made["key"])
        expect(page.get_by_role("alert")).to_contain_text("/?c=NAME")
        visit.open("/?c=shop")
        expect(page.locator("#results li")).to_have_count(2)
        search(page, "roses")
        page.locator("#home").click()
        expect(page.locator("#welcome")).to_be_visible()
        expect(page).to_have_url(f"{locked.url}/?c=shop")
        visit.forgive("status of 40[13]")
