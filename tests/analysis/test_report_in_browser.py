"""The report in a real browser: what a reader sees, hovers and clicks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_study import HOSTILE, make_study
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from stitching.analysis.report import make_report, save_report

FIRST = '.plot[data-chart="depth"]'


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a made-up study whose self-stitch check fails."""
    folder = tmp_path_factory.mktemp("report")
    study = make_study(folder / "study", seeds=2, gaps=((1, 1), (1, 4)), self_accuracy=0.8)
    save_report(make_report([study]), folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser, page) -> Iterator[webdriver.Chrome]:
    browser.get_log("browser")
    browser.set_window_size(1400, 1000)
    browser.get(page.as_uri())
    _drawn(browser, FIRST)
    yield browser
    told = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert told == []


def _drawn(browser: webdriver.Chrome, plot: str) -> WebElement:
    found = browser.find_element(By.CSS_SELECTOR, plot)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    WebDriverWait(browser, 20).until(lambda _: found.find_elements(By.CSS_SELECTOR, ".point"))
    return found


def _traces(browser: webdriver.Chrome, plot: str) -> list[dict]:
    """Group, panel and visibility of what a plot draws, and whether it is dots for runs."""
    script = (
        "return document.querySelector(arguments[0])._fullData.map("
        "t => ({group: t.legendgroup, panel: t.xaxis, isRun: Boolean(t.customdata), visible: t.visible === true}))"
    )
    return browser.execute_script(script, plot)


def _column(browser: webdriver.Chrome, table: str, label: str) -> list[str]:
    """The texts of a table's column, without hidden rows."""
    script = """
        const table = document.getElementById(arguments[0]);
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === arguments[1]);
        return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[at].textContent);
    """
    return browser.execute_script(script, table, label)


def _head(browser: webdriver.Chrome, table: str, label: str) -> WebElement:
    buttons = browser.find_elements(By.CSS_SELECTOR, f"#{table} th button")
    return next(button for button in buttons if button.text.strip() == label)


def test_hovering_over_a_dot_tells_its_run(opened):
    plot = _drawn(opened, FIRST)
    script = """
        const plot = document.querySelector(arguments[0]), points = [];
        for (const trace of plot._fullData) {
            const [xaxis, yaxis] = [trace.xaxis, trace.yaxis].map((name) => plot._fullLayout[name.replace(/^./, "$&axis")]);
            trace.x.forEach((x, i) => x === null || points.push({
                x: xaxis._offset + xaxis.l2p(x), y: yaxis._offset + yaxis.l2p(trace.y[i]), place: trace.customdata?.[i],
            }));
        }
        const far = (p) => Math.min(...points.filter((q) => q !== p).map((q) => Math.hypot(p.x - q.x, p.y - q.y)));
        const dots = points.filter((p) => p.place !== undefined).map((p) => ({ ...p, far: far(p) }));
        const dot = dots.reduce((a, b) => (b.far > a.far ? b : a));
        return [dot.x, dot.y, dot.place];
    """  # the dot that is farthest from all others
    x, y, place = opened.execute_script(script, FIRST)
    width, height = plot.size["width"], plot.size["height"]
    ActionChains(opened).move_to_element_with_offset(plot, round(x - width / 2), round(y - height / 2)).perform()
    tips = WebDriverWait(opened, 5).until(lambda _: plot.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    told = [part.text for part in tips[0].find_elements(By.CSS_SELECTOR, "tspan.line")]
    labels, row = opened.execute_script(
        "const runs = JSON.parse(document.getElementById('data').textContent).runs;"
        "return [runs.labels, runs.rows[arguments[0]]]", place,
    )  # fmt: skip
    assert told == [f"{label}: {value}" for label, value in zip(labels, row, strict=True) if value]
    assert {"run", "source", "destination", "adapter", "seed", "test accuracy", "folder"} <= set(labels)


def test_a_click_in_the_legend_hides_that_series_in_all_panels(opened):
    plot = _drawn(opened, FIRST)
    before = _traces(opened, FIRST)
    assert all(trace["visible"] for trace in before)
    assert len({trace["panel"] for trace in before if trace["group"] == "affine, lr=0.01"}) == 2
    (entry,) = [
        entry for entry in plot.find_elements(By.CSS_SELECTOR, ".legend .traces") if entry.text == "affine, lr=0.01"
    ]
    toggle = entry.find_element(By.CSS_SELECTOR, ".legendtoggle")
    toggle.click()
    WebDriverWait(opened, 5).until(lambda _: not all(trace["visible"] for trace in _traces(opened, FIRST)))
    for trace in _traces(opened, FIRST):
        assert trace["visible"] == (trace["group"] != "affine, lr=0.01")
    other = '.plot[data-chart="parameters"]'
    _drawn(opened, other)
    assert all(trace["visible"] for trace in _traces(opened, other))


def test_a_click_on_a_head_sorts_the_runs_and_another_turns_them_round(opened):
    numbers = _column(opened, "runs-table", "parameters")
    head = _head(opened, "runs-table", "parameters")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", head)

    def sorted_ones() -> list[int]:
        return [int(text.replace(",", "")) for text in _column(opened, "runs-table", "parameters") if text]

    head.click()
    ascending = sorted_ones()
    assert ascending == sorted(ascending)
    assert len({len(str(number)) for number in ascending}) > 1  # else they could have been sorted as words
    head.click()
    assert sorted_ones() == ascending[::-1]
    assert sorted(_column(opened, "runs-table", "parameters")) == sorted(numbers)
    cell = head.find_element(By.XPATH, "..")
    assert cell.get_attribute("aria-sort") == "descending"
    names = _head(opened, "runs-table", "run")
    opened.execute_script("arguments[0].click()", names)
    assert cell.get_attribute("aria-sort") == "none"


def test_words_in_the_filter_leave_the_rows_that_have_them(opened):
    field = opened.find_element(By.CSS_SELECTOR, 'input[data-filters="runs-table"]')
    every = len(_column(opened, "runs-table", "run"))
    field.send_keys("affine random_source")
    left = _column(opened, "runs-table", "control")
    assert left
    assert set(left) == {"random_source"}
    assert opened.find_element(By.ID, "runs-table-count").text == f"{len(left)} of {every} rows"
    field.clear()
    field.send_keys(" ")
    assert len(_column(opened, "runs-table", "run")) == every


def test_nothing_is_fetched_and_no_name_is_run_as_code(opened):
    fetched = opened.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []
    assert HOSTILE.replace("/", "∕") in _column(opened, "runs-table", "adapter")
    assert any("at step 3" in why for why in _column(opened, "unfinished-table", "why"))


def test_a_failed_check_is_the_first_that_is_seen(opened):
    opened.execute_script("scrollTo(0, 0)")
    alarm = opened.find_element(By.CSS_SELECTOR, ".alarm")
    assert alarm.is_displayed()
    assert "do not trust these numbers" in alarm.text
    assert "0.8" in alarm.text
    assert alarm.location["y"] < 400


@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_fits_its_window(browser, page, width):
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    try:
        browser.get(page.as_uri())
        _drawn(browser, FIRST)
        wide, there = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert there == width
        assert wide <= there
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
