"""The built documentation in a browser: links lead somewhere, pictures show, and pages fit a phone.

`SCFCMI_SITE` names the folder that sphinx wrote, `SCFCMI_CHROMIUM` a Chromium that is not on the path.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PHONE, DESK = {"width": 400, "height": 800}, {"width": 1280, "height": 900}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# written by sphinx for every project, and reached by its own buttons
OF_SPHINX = {"_modules/index.html", "genindex.html", "py-modindex.html", "search.html"}

# What a page has, as the browser sees it. An element sticks out if it ends right of the window and nothing around it
# scrolls or is fixed there, as the drawers at the sides are.
LOOK = """() => {
    const holds = (element) => {
        for (let box = element; box && box !== document.body; box = box.parentElement) {
            const style = getComputedStyle(box);
            if (style.position === "fixed" || style.visibility === "hidden") return true;
            if (box !== element && ["auto", "scroll"].includes(style.overflowX)) return true;
        }
        return false;
    };
    return {
        links: [...document.querySelectorAll("a[href]")].map((link) => link.href),
        anchors: [...document.querySelectorAll("[id]")].map((element) => element.id),
        broken: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src),
        pictures: [...document.querySelectorAll("article img")].length,
        unnamed: [...document.querySelectorAll("article img")].filter((image) => !image.alt).map((image) => image.src),
        width: document.documentElement.scrollWidth,
        wide: [...document.querySelectorAll("main *")]
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !holds(element))
            .map((element) => `${element.tagName} ${element.className}: ${element.textContent.slice(0, 40)}`),
        uncopied: [...document.querySelectorAll("article div.highlight")]
            .filter((block) => !block.querySelector("button.copybtn")).length,
    };
}"""


@dataclass
class Site:
    """The pages that can be reached from the first one."""

    address: str
    folder: Path
    pages: dict[str, dict[str, Any]]
    missing: list[str]

    def faults(self, name: str) -> list[str]:
        return [f"{page}: {fault}" for page, seen in self.pages.items() for fault in seen[name]]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder() -> Path:
    if "SCFCMI_SITE" not in os.environ:
        pytest.skip("SCFCMI_SITE names no built documentation")
    found = Path(os.environ["SCFCMI_SITE"]).resolve()
    assert (found / "index.html").is_file(), f"{found} holds no index.html"
    return found


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("SCFCMI_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(BROWSERS)} is on the path, and SCFCMI_CHROMIUM names none")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=program)
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def site(browser: Browser, address: str, folder: Path) -> Site:
    """Follow all links of the first page, of the pages that they lead to, and so on."""
    context = browser.new_context(viewport=PHONE)
    # what comes from elsewhere (the typesetter of formulas) may be out of reach, and is not what is tested
    context.route(lambda url: not url.startswith(address), lambda route: route.abort())
    tab = context.new_page()
    missing: list[str] = []
    tab.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
    pages: dict[str, dict[str, Any]] = {}
    waiting = ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in pages or not (folder / name).is_file():
            continue
        tab.goto(address + name, wait_until="load")
        tab.evaluate(
            "async () => { await Promise.allSettled([...document.images].map((image) => {"
            " image.loading = 'eager'; return image.decode(); })); }"
        )
        pages[name] = tab.evaluate(LOOK)
        waiting += [page for page, _ in _inside(pages[name]["links"], address) if page.endswith(".html")]
    context.close()
    return Site(address, folder, pages, missing)


def _inside(links: list[str], address: str) -> list[tuple[str, str]]:
    """Path and anchor of every link into the site."""
    own = [urldefrag(link) for link in links if link.startswith(address)]
    return [(unquote(urlsplit(link).path).lstrip("/") or "index.html", unquote(anchor)) for link, anchor in own]


def test_every_page_can_be_reached(site: Site) -> None:
    written = {path.relative_to(site.folder).as_posix() for path in site.folder.rglob("*.html")}
    written = {name for name in written if not name.startswith("_static/")}
    assert written - set(site.pages) - OF_SPHINX == set()
    assert {"index.html", "api.html", "generated/scfcmi.tl.fair_cluster.html"} <= set(site.pages)


def test_links_lead_to_pages_and_places(site: Site) -> None:
    lost = []
    for name, seen in site.pages.items():
        for page, anchor in _inside(seen["links"], site.address):
            if not (site.folder / page).is_file():
                lost.append(f"{name}: {page} does not exist")
            elif anchor and page in site.pages and anchor not in site.pages[page]["anchors"]:
                lost.append(f"{name}: {page} has no place #{anchor}")
    assert sorted(set(lost)) == []


def test_nothing_that_a_page_loads_is_missing(site: Site) -> None:
    assert sorted(set(site.missing)) == []


def test_pictures_show_and_say_what_they_show(site: Site) -> None:
    assert site.faults("broken") == []
    assert site.faults("unnamed") == []


def test_tutorials_show_their_figures(site: Site) -> None:
    tutorials = {name: seen["pictures"] for name, seen in site.pages.items() if name.startswith("_tutorials/")}
    assert len(tutorials) >= 8
    assert [name for name, pictures in tutorials.items() if not pictures] == []


def test_no_page_is_wider_than_a_phone(site: Site) -> None:
    assert {name: seen["width"] for name, seen in site.pages.items() if seen["width"] > PHONE["width"]} == {}
    assert site.faults("wide") == []


def test_code_can_be_copied_and_read(site: Site) -> None:
    assert {name: seen["uncopied"] for name, seen in site.pages.items() if seen["uncopied"]} == {}
    source = "_modules/scfcmi/tl/_fair_cluster.html"
    assert source in [
        page for page, _ in _inside(site.pages["generated/scfcmi.tl.fair_cluster.html"]["links"], site.address)
    ]


def test_one_search_box_that_finds(browser: Browser, address: str, site: Site) -> None:
    context = browser.new_context(viewport=DESK)
    context.route(lambda url: not url.startswith(address), lambda route: route.abort())
    tab = context.new_page()
    tab.goto(address)
    boxes = tab.locator("input[type=search]:visible, .search-button-field:visible, .search-button:visible")
    assert boxes.count() == 1
    tab.goto(f"{address}search.html?q=fair_cluster")
    tab.wait_for_selector("#search-results li a")
    assert any("fair_cluster" in text for text in tab.locator("#search-results li a").all_inner_texts())
    context.close()
