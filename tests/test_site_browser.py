"""The site as a browser shows it: opened from the disk, without network.

Needs `pip install playwright` and a Chromium, at /usr/bin/chromium or where `URBANCROSS_CHROMIUM` says. With
`URBANCROSS_AXE` naming axe-core's `axe.min.js`, that looks for faults of accessibility, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from site_board import write_output
from test_renderers import NASTY

from urbancross_bench.interfaces import Board, Estimate, Options, Table
from urbancross_bench.leaderboard.build import build, make_files, write_files
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.registry import Registry
from urbancross_renderers.html.site import Html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
else:
    Browser = Page = Any

CHROMIUM = os.environ.get("URBANCROSS_CHROMIUM", "/usr/bin/chromium")
AXE = os.environ.get("URBANCROSS_AXE")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with every kind of page. Look, do not touch."""
    folder = tmp_path_factory.mktemp("site")
    output = write_output(folder / "o", seeds=[0, 1])
    view = load_view(DEFAULT).model_copy(update={"renderers": ("html",)})
    build([output], folder, view, Registry.discover())
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield launched
        launched.close()


class Watched:
    """A page, and what it asked for or complained of."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        wanted: dict[str, Any] = {"viewport": DESK, "offline": True} | options
        self.context = browser.new_context(**wanted)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, file: Path, part: str = "") -> Page:
        self.page.goto(file.as_uri() + part)
        return self.page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """On the way out: nothing was complained of, nothing asked for but files."""
    one = Watched(browser)
    yield one
    one.context.close()
    assert one.said == []
    assert [url for url in one.asked if not url.startswith(("file://", "data:"))] == []


def one_of_each(site: Path) -> list[Path]:
    """A page of every kind."""
    top = sorted(site.glob("*.html"))
    return top + [sorted((site / folder).iterdir())[0] for folder in ("runs", "domains", "gallery")]


FAULTS = Path(__file__).with_name("site_faults.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_no_page_has_a_fault_of_accessibility(
    browser: Browser, site: Path, scheme: str, size: dict[str, int]
) -> None:
    one = Watched(browser, viewport=size, color_scheme=scheme, bypass_csp=bool(AXE))
    found = {}
    for file in one_of_each(site):
        page = one.open(file)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found[file.name] = page.evaluate(FAULTS)
        if AXE:
            page.evaluate(Path(AXE).read_text(encoding="utf-8"))
            violations = page.evaluate("axe.run({ preload: false })")["violations"]
            found[file.name] += [f"axe: {v['id']}, {v['nodes'][0]['html']}" for v in violations]
    one.context.close()
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert one.said == []


def test_the_search_for_faults_finds_them(watched: Watched, site: Path) -> None:
    page = watched.open(site / "index.html")
    page.evaluate("""() => {
      document.querySelector("main").insertAdjacentHTML("beforeend",
        "<h4>x</h4><img><button></button><svg></svg><table><tr><th>x</th></tr></table><p class='pale'>pale</p>");
      document.querySelector(".pale").style.color = "rgb(200, 200, 200)";
      document.querySelector(".pale").style.width = "5000px";
    }""")
    found = " ".join(page.evaluate(FAULTS))
    for wanted in ("heading 4", "no alt", "no name", "without words", "without scope", "contrast", "wider"):
        assert wanted in found


def column(page: Page, name: str) -> list[str]:
    """What stands below a heading, from above."""
    found: list[str] = page.evaluate(
        """(name) => {
          const table = document.querySelector("table.data");
          const at = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === name);
          return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent.trim());
        }""",
        name,
    )
    return found


def test_tables_are_sorted_by_mouse_and_keyboard(watched: Watched, site: Path) -> None:
    page = watched.open(site / "index.html")
    button = page.get_by_role("button", name="mean mR")
    button.click()
    values = [float(text.split()[0]) for text in column(page, "mean mR")]
    assert values == sorted(values, reverse=True)
    heading = page.get_by_role("columnheader", name="mean mR")
    assert heading.get_attribute("aria-sort") == "descending"
    button.focus()
    page.keyboard.press("Enter")
    assert [float(text.split()[0]) for text in column(page, "mean mR")] == values[::-1]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert "sorted by mean mR, ascending" in str(page.get_by_role("status").text_content())
    page.get_by_role("button", name="rank").click()
    assert column(page, "rank")[-1] == "–"
    page.get_by_role("button", name="rank").click()
    assert column(page, "rank")[-1] == "–"  # what is missing stands last either way
    assert page.locator("[aria-sort]").count() == 1
    page.get_by_role("button", name="adaptation").click()
    assert column(page, "adaptation") == sorted(column(page, "adaptation"))


def test_rows_are_filtered_and_rows_lead_to_their_runs(watched: Watched, site: Path) -> None:
    page = watched.open(site / "scenarios.html")
    page.get_by_label("Filter rows").fill('OURS "A → b"')
    assert column(page, "adaptation") == ["ours"]
    assert column(page, "scenario") == ["a → b"]
    assert page.get_by_role("status").text_content() == "1 of 9 rows"
    page.get_by_role("link", name="runs", exact=True).last.click()
    page.wait_for_url("**/runs.html#filter=*")
    assert column(page, "scenario") == ["a → b"] * 2  # two seeds
    assert column(page, "adaptation") == ["ours"] * 2
    page.locator("table.data tbody a").first.click()
    page.wait_for_url("**/runs/*.html")
    assert str(page.locator("h1").text_content()) == "ours, a → b, seed 0"
    page.get_by_role("link", name="runs of the same row").click()
    page.wait_for_url("**/runs.html#filter=*")
    page.get_by_label("Filter rows").fill("nothing like it")
    assert column(page, "scenario") == []


def test_rows_lead_to_their_runs_whatever_their_names_hold(watched: Watched, tmp_path: Path) -> None:
    names = ['m[words=["a b", "c"]]', 'm[words=["a b"]]', '"', 'say "m" "n"']
    rows = [["a → b", "e", name, 1.0] for name in names]
    table = Table("scenarios", "t", ["scenario", "encoder", "adaptation", "mR"], rows)
    write_files(make_files(Board("T", [table]), [Html(Options())]), tmp_path)
    # The records that would fill the list of runs are not needed to see what is asked of it.
    (tmp_path / "site" / "runs.html").write_text(Html(Options()).render(table), encoding="utf-8")
    for name in names:
        page = watched.open(tmp_path / "site" / "index.html")
        page.get_by_role("link", name="runs", exact=True).nth(1 + names.index(name)).click()
        page.wait_for_url("**/runs.html#filter=*")
        assert column(page, "adaptation") == [name]


def test_the_theme_is_kept_from_page_to_page(watched: Watched, site: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    page = watched.open(site / "index.html")
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(paper)
    assert dark != light
    watched.open(site / "runs.html")
    assert page.evaluate(paper) == dark
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(paper) == light


def test_methods_are_chosen_in_the_gallery_and_the_heatmap(watched: Watched, site: Path) -> None:
    page = watched.open(sorted((site / "gallery").iterdir())[0])
    methods = page.get_by_label("Left").locator("option").all_text_contents()
    shown = page.locator(".asked").first.locator(".list:visible h3")
    assert shown.all_text_contents() == methods[:2]
    assert page.locator("img").first.evaluate("(one) => one.complete && one.naturalWidth") == 8
    page.get_by_label("Left").select_option(methods[3])
    places = {str(one.text_content()): one.bounding_box() for one in shown.all()}
    assert places.keys() == {methods[3], methods[1]}
    assert places[methods[3]]["x"] < places[methods[1]]["x"]  # type: ignore[index]
    page.get_by_label("Right").select_option(methods[3])
    assert shown.all_text_contents() == [methods[3]]
    assert "choose another" in str(page.get_by_role("status").text_content())
    watched.open(site / "scenarios.html")
    page.get_by_label("Method").select_option(index=1)
    chosen = str(page.get_by_label("Method").locator("option").nth(1).text_content())
    assert page.locator("table.heat:visible caption").all_text_contents() == [chosen]


def test_pages_say_all_without_script(browser: Browser, site: Path) -> None:
    one = Watched(browser, java_script_enabled=False)
    page = one.open(site / "scenarios.html")
    assert page.locator("table.data tbody tr:visible").count() == 9
    assert page.locator("table.heat:visible").count() == 3
    assert page.locator("button:visible, input:visible").count() == 0
    page = one.open(sorted((site / "gallery").iterdir())[0])
    assert page.locator(".asked").first.locator(".list:visible").count() == 2
    one.context.close()


def test_nothing_of_a_text_is_carried_out(watched: Watched, tmp_path: Path) -> None:
    nasty = [text for text in NASTY if text != "\ud800"]
    rows = [[text, "a → b", text, text, Estimate(1.0 * i, 0.0, 99.0)] for i, text in enumerate(nasty)]
    table = Table("scenarios", nasty[1], ["adaptation", "scenario", "encoder", nasty[0], "mR"], rows, nasty)
    (tmp_path / "one.html").write_text(Html(Options()).render(table), encoding="utf-8")
    write_files(make_files(Board(nasty[0], [table]), [Html(Options())]), tmp_path)
    for file in (tmp_path / "one.html", tmp_path / "site" / "index.html"):
        page = watched.open(file)
        assert page.locator("table.data tbody tr").count() == len(nasty)
        page.get_by_label("Filter rows").fill("<script>")
        assert column(page, "adaptation") == ["<script>alert(1)</script>"]
        assert page.locator("main img, main b").count() == 0
    assert page.locator("td a").count() == 1


def test_a_policy_forbids_what_slips_through(browser: Browser, site: Path, tmp_path: Path) -> None:
    """A page into which markup was written all the same runs nothing of it, and asks nobody for anything."""
    shutil.copytree(site, tmp_path / "site")
    file = tmp_path / "site" / "index.html"
    breach = '<script>document.title="run"</script><img src="x" onerror="document.title=\'run\'">'
    breach += '<img src="http://127.0.0.1:9/x"><form action="http://127.0.0.1:9/"><button>b</button></form>'
    file.write_text(file.read_text(encoding="utf-8").replace("<h1>", breach + "<h1>"), encoding="utf-8")
    one = Watched(browser)
    page = one.open(file)
    assert page.title() != "run"
    assert sum("Content Security Policy" in text for text in one.said) >= 3
    one.context.close()


def test_ten_thousand_rows_are_sorted_and_few_are_drawn(watched: Watched, tmp_path: Path) -> None:
    order = [(7919 * i) % 10_000 for i in range(10_000)]
    rows = [[f"method {value % 300}", "a → b", "e", value / 100 if value % 10 else None] for value in order]
    table = Table("scenarios", "many", ["adaptation", "scenario", "encoder", "mR"], rows)
    (tmp_path / "many.html").write_text(Html(Options()).render(table), encoding="utf-8")
    page = watched.open(tmp_path / "many.html")
    assert page.locator("table.data tbody tr").count() == 200
    page.get_by_role("button", name="mR").click()
    assert column(page, "mR")[:3] == ["99.99", "99.98", "99.97"]
    page.get_by_role("button", name="Show more rows").click()
    assert page.locator("table.data tbody tr").count() == 400
    page.get_by_label("Filter rows").fill('"method 17"')
    known = [value for value in range(10_000) if value % 300 == 17]
    said = str(page.get_by_role("status").text_content())
    assert said.startswith(f"{len(known)} of 10000 rows, sorted by mR")
