"""The page at /, in a real browser against a real server."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browsing import ROSE, Visit, drop, hand_over, launched, search, stock, visiting
from tests.conftest import ROOT, Server

WEB = ROOT / "service" / "web"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """A tab at the server with the gallery."""
    with visiting(browser, server.url) as current:
        yield current


@pytest.fixture
def shop(server: Server) -> Iterator[str]:
    """A second collection."""
    stock(server.url)
    yield "shop"
    assert httpx2.delete(f"{server.url}/v1/collections/shop").status_code == 204


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#results .score").all_inner_texts()]


def titles(page: Page) -> list[str]:
    return page.locator("#results .title").all_inner_texts()


def first_title(page: Page, title: str) -> None:
    expect(page.locator("#results .title").first).to_have_text(title)


def test_a_first_visit_shows_a_sample_and_three_examples_that_search(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator("#results li")).to_have_count(48)
    expect(page.locator("#status")).to_contain_text("items")
    assert page.locator("#results .score").count() == 0
    expect(page.locator("#examples button")).to_have_count(3)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#results li")).to_have_count(96)
    page.locator("#examples button", has_text="a birthday party").click()
    expect(page).to_have_url(re.compile(r"[?&]q=things"))
    expect(page.locator("#results .score").first).to_be_visible()
    expect(page.locator("#welcome")).to_be_hidden()


def test_typed_words_find_pictures_with_scores_best_first(visit: Visit) -> None:
    page = visit.open()
    search(page, "a penguin")
    expect(page.locator("#results li")).to_have_count(30)
    assert "penguin" in titles(page)[0]
    assert scores(page) == sorted(scores(page), reverse=True)
    expect(page.locator("#results .badge").first).to_have_text(re.compile("image"))
    expect(page.locator("#status")).to_have_text(re.compile(r"30 results in [\d.]+ ms"))
    image = page.locator("#results img").first
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())


def test_more_results_can_be_asked_for(visit: Visit) -> None:
    page = visit.open("/?q=a+penguin")
    expect(page.locator("#results li")).to_have_count(30)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#results li")).to_have_count(60)


def test_a_dropped_picture_finds_itself_and_is_shown_as_a_chip(visit: Visit) -> None:
    page = visit.open()
    drop(page, "my rose.webp", "image/webp", ROSE.read_bytes())
    first_title(page, "a red rose")
    expect(page.locator("#chip")).to_contain_text("my rose.webp")
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.locator("#chip")).to_be_hidden()
    expect(page.locator("#welcome")).to_be_visible()


def test_a_pasted_picture_searches(visit: Visit) -> None:
    page = visit.open()
    hand_over(page, "paste", [("", "image/webp", ROSE.read_bytes())])
    first_title(page, "a red rose")


def test_a_picked_picture_searches(visit: Visit) -> None:
    page = visit.open()
    page.locator("#pick input").set_input_files(ROSE)
    first_title(page, "a red rose")


def test_a_search_before_the_page_has_loaded_its_collections_is_not_lost(visit: Visit) -> None:
    def slowly(route: Route) -> None:
        visit.page.wait_for_timeout(700)
        route.continue_()

    visit.page.route("**/v1/collections?*", slowly)
    page = visit.open()
    page.get_by_role("searchbox").fill("a penguin")
    page.keyboard.press("Enter")
    expect(page.locator("#results .title").first).to_have_text(re.compile("penguin"))
    expect(page.get_by_role("searchbox")).to_have_value("a penguin")


def test_a_picture_and_words_search_together(visit: Visit) -> None:
    page = visit.open()
    drop(page, "rose.webp", "image/webp", ROSE.read_bytes())
    first_title(page, "a red rose")
    alone = page.locator("#results .score").first.get_attribute("value")
    search(page, "a drawing of tulips")
    expect(page.locator("#chip")).to_be_visible()
    page.wait_for_function("alone => document.querySelector('.score').value !== alone", arg=alone)
    top = titles(page)[:6]
    assert "a red rose" in top
    assert "a drawing of pink tulips" in top


def test_a_click_on_a_result_finds_more_like_it(visit: Visit) -> None:
    page = visit.open("/?q=a+red+rose")
    page.get_by_role("button", name="More like: a red rose").click()
    expect(page).to_have_url(re.compile("like=photo-rose"))
    expect(page.locator("#chip")).to_contain_text("a red rose")
    expect(page.locator("#results .score").first).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value("")
    expect(page.locator("#status")).to_be_focused()
    assert "a red rose" not in titles(page)
    search(page, "yellow")
    expect(page).to_have_url(re.compile("q=yellow&like=photo-rose"))


def test_an_address_can_be_shared_and_back_goes_back(visit: Visit) -> None:
    page = visit.open("/?q=a+trumpet&like=photo-rose&c=gallery")
    expect(page.get_by_role("searchbox")).to_have_value("a trumpet")
    expect(page.locator("#chip")).to_contain_text("a red rose")
    expect(page.locator("#results .score").first).to_be_visible()
    shared = titles(page)
    page.locator("#home").click()
    expect(page.locator("#welcome")).to_be_visible()
    drop(page, "rose.webp", "image/webp", ROSE.read_bytes())
    first_title(page, "a red rose")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_back()
    expect(page.locator("#results .title").first).to_have_text(shared[0])
    assert titles(page) == shared
    page.go_forward()
    page.go_forward()
    expect(page.locator("#chip")).to_contain_text("rose.webp")


def test_what_the_service_says_of_an_error_is_shown_as_text(visit: Visit) -> None:
    garbage = b"<script>alert(1)</script>" * 40
    files = {"image": ("broken.png", garbage, "image/png")}
    told = httpx2.post(f"{visit.url}/v1/collections/gallery/search", files=files).json()["detail"]
    page = visit.open()
    drop(page, "broken.png", "image/png", garbage)
    expect(page.get_by_role("alert")).to_have_text(told)
    expect(page.locator("#results li")).to_have_count(0)
    visit.forgive("status of 4")
    page.get_by_role("button", name="Remove the picture").click()
    search(page, "a penguin")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_file_that_is_no_picture_is_refused_on_the_spot(visit: Visit) -> None:
    page = visit.open()
    drop(page, "notes.txt", "text/plain", b"hello")
    expect(page.locator("#status")).to_have_text("notes.txt is not a picture.")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_waited_for_and_the_visitor_is_told(visit: Visit, status: int) -> None:
    busy = {"detail": "The queue is full.", "status": status}
    answers = iter([True, False])

    def once_busy(route: Route) -> None:
        if next(answers):
            route.fulfill(status=status, headers={"Retry-After": "1"}, json=busy)
        else:
            route.continue_()

    page = visit.open()
    expect(page.locator("#results li").first).to_be_visible()
    page.route("**/search", once_busy)
    page.get_by_role("searchbox").fill("a penguin")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The queue is full. Trying again in 1 s …")
    expect(page.locator("#results .score").first).to_be_visible()
    visit.forgive(f"status of {status}")


def test_a_service_that_is_gone_is_told_and_can_be_tried_again(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator("#results li").first).to_be_visible()
    page.route("**/search", lambda route: route.abort())
    page.get_by_role("searchbox").fill("a penguin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    visit.forgive("ERR_FAILED")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#results .score").first).to_be_visible()


def test_another_collection_can_be_chosen_and_its_strange_items_are_shown(visit: Visit, shop: str) -> None:
    page = visit.open()
    page.get_by_label("Collection").select_option(shop)
    expect(page).to_have_url(re.compile("c=shop"))
    expect(page.locator("#results li")).to_have_count(2)
    expect(page.locator("#results q")).to_have_text("a bouquet of red roses")
    expect(page.locator("#results .title")).to_have_text("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="More like: <img").click()
    expect(page.locator("#results q")).to_have_text("a bouquet of red roses")
    expect(page.locator("#results li")).to_have_count(1)
    page.reload()
    expect(page.locator("#chip")).to_contain_text("<img src=x")
    expect(page.locator("#results li")).to_have_count(1)
    expect(page.locator("#results .badge")).to_have_text("text")


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.open("/?q=a+red+rose")
    expect(page.locator("#results .score").first).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    while not page.evaluate("document.activeElement.matches('#results button')"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "no result can be reached by Tab"
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("like="))


@pytest.mark.parametrize(("width", "columns"), [(360, 2), (1280, 6)])
def test_the_page_fits_phones_and_desks(visit: Visit, server: Server, width: int, columns: int) -> None:
    long = f"{server.url}/v1/collections/a-rather-long-name-that-someone-gave-to-a-collection"
    httpx2.put(long)  # so that there is a collection to choose
    visit.page.set_viewport_size({"width": width, "height": 740})
    page = visit.open("/?like=photo-rose")
    expect(page.locator("#results li").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    grid = page.evaluate("getComputedStyle(document.querySelector('#results')).gridTemplateColumns")
    assert len(grid.split()) == columns
    httpx2.delete(long)


def test_dark_mode_is_dark(visit: Visit) -> None:
    brightness = "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
    page = visit.open()
    assert min(page.evaluate(brightness)) > 200
    page.emulate_media(color_scheme="dark")
    assert max(page.evaluate(brightness)) < 60


@pytest.mark.parametrize("path", ["/", *(f"/web/{path.name}" for path in sorted(WEB.iterdir()))])
def test_every_file_of_the_page_is_served_under_a_strict_policy(server: Server, path: str) -> None:
    reply = httpx2.get(server.url + path)
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "img-src 'self' blob: data:"} <= set(policy)
    assert "unsafe" not in " ".join(policy)


def test_the_page_makes_no_markup_of_text_and_names_no_other_host() -> None:
    for path in WEB.iterdir():
        source = path.read_text(encoding="utf-8")
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", source) == []
        assert set(re.findall(r"https?://[^\"' ]+", source)) <= {"http://www.w3.org/2000/svg"}


def test_the_page_stays_small() -> None:
    assert sum(Path(path).stat().st_size for path in WEB.iterdir()) < 40_000
