"""The report in a real browser: no request, no noise, and everything works by mouse, by keyboard and on a phone."""

import re
import shutil

import numpy as np
import pytest
from support.hostile import ALERT, CLASSES, ODD_FILE, RUN

pytestmark = pytest.mark.slow  # what its page holds: test_page.py


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, hostile_report):
    """Open the report; at the end: nothing was requested but the file, said on the console, or popped up."""
    contexts, noise = [], []

    def open_page(width=1200, **settings):
        context = chromium.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        tab = context.new_page()
        for event in ("console", "pageerror", "dialog"):
            tab.on(event, lambda what, event=event: noise.append((event, str(what))))
        address = hostile_report.as_uri()
        tab.on("request", lambda r: None if r.url in (address,) or r.url.startswith("data:") else noise.append(r.url))
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert noise == []


def test_hostile_names_are_text(opened):
    tab = opened()
    assert tab.title() == f"{RUN}/version_0: report"
    assert tab.inner_text("h1") == f"{RUN}/version_0"
    assert tab.inner_text("#class-table tbody tr:first-child th") == ALERT
    assert tab.locator("#selector option").all_inner_texts() == CLASSES
    assert tab.evaluate("document.querySelectorAll('main script, main b[onclick], main img[src=x]').length") == 0
    names = tab.evaluate("[...document.querySelectorAll('.shots figcaption')].map((c) => c.textContent)")
    assert any(ODD_FILE.format(n) in name for name in names for n in range(50, 60))
    assert f"{ALERT}: AP" in tab.evaluate("document.querySelector('#class-0 svg').textContent")


def test_sorting_by_click_and_by_key(opened):
    tab = opened()

    def column(number):
        cells = tab.locator(f"#class-table tbody tr > :nth-child({number})")
        return [cell.get_attribute("data-value") for cell in cells.all()]

    head = tab.locator("#class-table thead th").nth(1)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    rising = [float(value) for value in column(2)]
    assert rising == sorted(rising)
    tab.keyboard.press("Enter")  # the button keeps the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(2)] == rising[::-1]
    tab.locator("#class-table thead th").first.get_by_role("button").press("Space")
    assert column(1) == tab.evaluate("(names) => names.sort((a, b) => a.localeCompare(b, 'en'))", CLASSES)
    assert tab.locator("#class-table [aria-sort]").count() == 1


def test_empty_cells_come_last_and_numbers_are_numbers(opened):
    tab = opened()
    order = tab.evaluate("""() => {
      const table = document.getElementById("class-table"), values = ["9.5", "", "100.0", "20.1"];
      [...table.tBodies[0].rows].forEach((row, n) => (row.cells[1].dataset.value = values[n]));
      const read = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.value);
      const button = table.tHead.rows[0].cells[1].querySelector("button");
      button.click(); const up = read(); button.click(); return [up, read()];
    }""")
    assert order == [["9.5", "20.1", "100.0", ""], ["100.0", "20.1", "9.5", ""]]


def test_one_class_at_a_time_by_keyboard_and_by_link(opened):
    tab = opened()

    def shown():
        return tab.evaluate(
            "[...document.querySelectorAll('section.class')].filter((s) => s.checkVisibility()).map((s) => s.id)"
        )

    assert len(shown()) == 1
    tab.select_option("#selector", "class-0")
    tab.focus("#selector")
    tab.keyboard.press("ArrowDown")
    assert shown() == ["class-1"]
    tab.locator("#class-table a", has_text="_dog").press("Enter")
    tab.wait_for_selector("#class-2", state="visible")  # the browser tells the page of a new address a moment later
    assert shown() == ["class-2"]
    assert tab.input_value("#selector") == "class-2"
    assert tab.evaluate("document.activeElement.id") == "selector"
    assert tab.evaluate("document.getElementById('class').getBoundingClientRect().top") < 100
    tab.check("#highlight")
    groups = tab.evaluate("""[...document.querySelectorAll(".embeddings [data-gid^=class-]")]
      .map((g) => [g.dataset.gid, Number(getComputedStyle(g).opacity)])""")
    assert dict(groups) == {f"class-{k}": 1 if k == 2 else pytest.approx(0.1) for k in range(4)}
    tab.go_back()
    assert shown() == ["class-2"]  # no class in the address any more: the last one stays


def test_attention_can_be_switched_off(opened):
    tab = opened()
    layers = tab.locator(".attention")
    visible = "(all) => all.filter((layer) => layer.checkVisibility()).length"
    assert layers.evaluate_all(visible) > 0
    section = tab.locator("section.class:visible")
    box, picture = (section.locator(what).first.bounding_box() for what in (".attention", "img"))
    assert box == picture
    tab.focus("#attention")
    tab.keyboard.press("Space")
    assert layers.evaluate_all(visible) == 0


def test_a_phone_scrolls_in_one_direction(opened):
    tab = opened(width=390, device_scale_factor=2, is_mobile=True, has_touch=True)
    for k in range(4):
        tab.select_option("#selector", f"class-{k}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator("#class-table").bounding_box()["width"] > 390  # scrolls within its own frame


def test_dark_and_light_differ_and_both_have_contrast(opened):
    grounds = []
    for scheme in ("light", "dark"):
        tab = opened(color_scheme=scheme)
        colours = tab.evaluate("""["body", ".muted", "#class-table a", ".plot text"].map((s) => {
          const style = getComputedStyle(document.querySelector(s));
          return s === ".plot text" ? style.fill : style.color;
        })""")
        grounds.append(ground := tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        for colour in colours:
            assert contrast(colour, ground) > 4.5, (scheme, colour)
    assert contrast(*grounds) > 10


def contrast(*colours):
    """WCAG's ratio of two rgb(...) colours."""
    lights = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        lights.append(float(np.dot(linear, [0.2126, 0.7152, 0.0722])) + 0.05)
    return max(lights) / min(lights)


def test_everything_that_is_seen_is_also_said(opened):
    tab = opened()
    assert tab.evaluate("[...document.images].every((i) => i.alt.trim())")
    assert tab.evaluate(
        "[...document.querySelectorAll('svg')].every((s) => s.getAttribute('aria-label') && s.role === 'img')"
    )
    assert tab.evaluate("[...document.querySelectorAll('select, input')].every((c) => c.labels.length)")
    assert (
        tab.evaluate("""(() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
      return ids.length - new Set(ids).size; })()""")
        == 0
    )
    assert tab.evaluate("document.documentElement.lang") == "en"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"


def test_without_scripts_every_class_is_shown(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("section.class:visible").count() == 4
    assert not tab.locator("#selector").is_visible()
