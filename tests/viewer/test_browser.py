"""The viewer in a real browser, which draws with WebGL; skipped where there is none."""

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from browsers import CHROMIUMS_OWN, needs_chromium
from runs_by_hand import write_evaluation
from screenshots import chromium, wait_until_loaded
from segbundle.viewer import make_server

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    server = make_server(write_evaluation(tmp_path_factory.mktemp("run")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with chromium() as driver:
        driver.set_window_size(1000, 800)
        driver.get(f"http://127.0.0.1:{server.server_port}/")
        yield driver
    server.shutdown()
    server.server_close()


def picture(browser):
    from selenium.webdriver.common.by import By

    shot = browser.find_element(By.ID, "canvas").screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def coloured(pixels):
    """How many pixels are no shade of grey."""
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 30).sum())


def choose(browser, control, value):
    script = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    browser.execute_script(script + "one.dispatchEvent(new Event('input'))", control, value)
    time.sleep(0.5)


def test_a_scan_and_its_label_maps_are_drawn(browser):
    wait_until_loaded(browser)
    names = browser.execute_script("return window.viewer.volumes.map(volume => volume.name)")
    assert names == ["scan.nii.gz", "reference.nii.gz", "prediction.nii.gz"]
    pixels = picture(browser)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # not blank
    assert coloured(pixels) > 500
    choose(browser, "reference", 0)
    choose(browser, "prediction", 0)
    assert coloured(picture(browser)) < coloured(pixels) / 10  # what was coloured were the label maps
    choose(browser, "prediction", 1)
    assert coloured(picture(browser)) > 500


def test_another_case_and_another_view(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    wait_until_loaded(browser)
    Select(browser.find_element(By.ID, "case")).select_by_index(2)
    time.sleep(0.2)
    wait_until_loaded(browser)
    assert browser.find_element(By.ID, "scores").text == "ball 0.750, cube 1.000"
    assert browser.current_url.endswith("#shifted")
    before = picture(browser)
    choose(browser, "view", 4)
    assert np.abs(picture(browser) - before).mean() > 1


def test_a_choice_while_another_case_is_loading(browser):
    script = """const one = document.getElementById('case');
        for (const place of [0, 1, 3]) { one.value = place; one.dispatchEvent(new Event('change')); }"""
    browser.execute_script(script)
    wait_until_loaded(browser)
    assert browser.current_url.endswith("#perfect")
    names = browser.execute_script("return window.viewer.volumes.map(volume => volume.name)")
    assert names == ["scan.nii.gz", "reference.nii.gz", "prediction.nii.gz"]


def test_nothing_is_asked_of_anybody_else_and_nothing_is_wrong(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    inside = ("http://127.0.0.1:", "data:", "blob:", *CHROMIUMS_OWN)
    assert [url for url in asked if not url.startswith(inside)] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
