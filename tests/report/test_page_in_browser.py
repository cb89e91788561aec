"""Reports in a real browser; skipped without Chromium."""

import json

import pytest

from browsers import CHROMIUMS_OWN, needs_chromium
from runs_by_hand import CASES, RIGHT, labels, write_evaluation, write_many, write_predictions
from screenshots import chromium
from segbundle.report.comparison import write_comparison
from segbundle.report.page import write_report
from segbundle.report.prediction_page import write_prediction_report

pytestmark = needs_chromium
TABLE = "[...document.querySelectorAll('#table tbody tr')]"


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def opened(browser, tmp_path):
    """Return a function that opens a page and returns its requests and console messages."""

    def open_page(path):
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(path.as_uri())
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        asked = [url for url in asked if not url.startswith(("data:", *CHROMIUMS_OWN))]
        return asked, browser.get_log("browser")

    return open_page


def names(browser):
    shown = f"{TABLE}.filter(row => !row.hidden).map(row => [row.cells[0].textContent, row.cells[1].textContent])"
    return [tuple(name) for name in browser.execute_script(f"return {shown}")]


def click(browser, label):
    from selenium.webdriver.common.by import By

    button = next(
        one for one in browser.find_elements(By.CSS_SELECTOR, "#table thead button") if one.text.startswith(label)
    )
    button.send_keys("\n")  # as from the keyboard


def test_page_opens_from_disk_without_errors_or_requests(browser, opened, tmp_path):
    uid = "1.2.840.113619.2.55.3.604688119.971.1268746042.467.4444444444444444"
    path = write_report(write_evaluation(tmp_path, {**CASES, uid: (labels(), RIGHT)}))
    asked, complaints = opened(path)
    assert asked == [path.as_uri()]
    assert complaints == []
    loaded = "return [...document.querySelectorAll('svg.slice image')].map(one => one.getBBox().width > 0)"
    assert browser.execute_script(loaded) == [True] * 21
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    for width in (1200, 360):  # a phone
        browser.set_window_size(width, 800)
        assert browser.execute_script(wide)


def test_table_sorting_and_filtering(browser, opened, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    opened(write_report(write_evaluation(tmp_path)))
    assert names(browser)[:3] == [("invented", "cube"), ("missed", "cube"), ("shifted", "ball")]
    click(browser, "Dice")
    assert names(browser)[-3:] == [("shifted", "ball"), ("invented", "cube"), ("missed", "cube")]
    click(browser, "case")
    assert [case for case, _ in names(browser)[::2]] == ["invented", "missed", "perfect", "shifted"]
    click(browser, "HD95")  # those without one are last in both directions
    assert {("invented", "cube"), ("missed", "cube")} == set(names(browser)[-2:])
    click(browser, "HD95")
    assert names(browser)[0] == ("shifted", "ball")
    assert {("invented", "cube"), ("missed", "cube")} == set(names(browser)[-2:])
    Select(browser.find_element(By.ID, "of-status")).select_by_visible_text("missed")
    assert names(browser) == [("missed", "cube")]
    Select(browser.find_element(By.ID, "of-status")).select_by_visible_text("all")
    browser.find_element(By.ID, "find").send_keys("PERF")
    assert sorted(names(browser)) == [("perfect", "ball"), ("perfect", "cube")]
    assert browser.find_element(By.ID, "shown").text == "2 of 8 rows"


def test_names_are_not_executed(browser, opened, tmp_path):
    name = "<img src=x onerror=document.title='hit'> \"quoted\" 'name'"
    _, complaints = opened(write_report(write_evaluation(tmp_path, {name: (RIGHT, RIGHT)})))
    assert complaints == []
    assert browser.title.startswith("Scores: ")
    assert {case for case, _ in names(browser)} == {name}


def test_dark_and_light_color_scheme(browser, opened, tmp_path):
    path, colors = write_report(write_evaluation(tmp_path)), {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened(path)
        colors[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colors == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}


def test_comparison_page_opens(browser, opened, tmp_path):
    one = write_evaluation(tmp_path / "one", {"a": (RIGHT, RIGHT), "b": (RIGHT, RIGHT)})
    long = "a_run_with_every_setting_of_the_experiment_in_the_name_of_its_folder"
    other = write_evaluation(tmp_path / long, {"a": (RIGHT, RIGHT), "b": (labels((2, 2, 2)), RIGHT)})
    path = write_comparison([one, other], tmp_path / "comparison.html")
    asked, complaints = opened(path)
    assert (complaints, asked) == ([], [path.as_uri()])
    assert names(browser)[:2] == [("b", "cube"), ("b", "ball")]
    loaded = "return [...document.querySelectorAll('svg.slice image')].map(one => one.getBBox().width > 0)"
    assert browser.execute_script(loaded) == [True] * 6
    colors = (
        "return ['ref', 'pred', 'other'].map(one => getComputedStyle(document.querySelector('path.' + one)).stroke)"
    )
    assert len(set(browser.execute_script(colors))) == 3
    browser.set_window_size(360, 800)  # a phone
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_prediction_page_opens(browser, opened, tmp_path):
    path = write_prediction_report(write_predictions(tmp_path, {"a": RIGHT, "b": labels((2, 2, 2), (8, 9, 8))}))
    asked, complaints = opened(path)
    assert (complaints, asked) == ([], [path.as_uri()])
    assert names(browser)[0] == ("b", "cube")  # the case with a warning
    click(browser, "volume")
    assert len(names(browser)) == 4


def test_classes_are_sorted_and_grouped_again(browser, opened, tmp_path):
    _, complaints = opened(write_report(write_many(tmp_path, 14)))
    assert complaints == []
    rows = "[...document.querySelectorAll('#classes tbody tr')].filter(row => row.offsetParent)"
    shown = f"return {rows}.map(row => row.cells[0].textContent)"
    before = browser.execute_script(shown)
    assert before[:3] == ["liver", "rib (4)", "rib_left_0"] and before[-1] == "cyst"
    head = "document.querySelector('#classes thead button')"
    browser.execute_script(f"{head}.click()")
    ascending = browser.execute_script(shown)
    assert ascending[0] == "cyst" and ascending[-1] == "vertebrae_t_10" and "rib (4)" not in ascending
    assert len(ascending) == 14
    browser.execute_script(f"{head}.click()")
    assert browser.execute_script(shown) == ascending[::-1]
    browser.execute_script(f"{head}.click()")
    assert browser.execute_script(shown) == before
