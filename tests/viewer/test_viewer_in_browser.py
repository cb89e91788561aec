"""The viewer in a real browser with WebGL; skipped without Chromium."""

import io
import json
import threading
import time
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from browsers import CHROMIUMS_OWN, needs_chromium
from runs_by_hand import CASES, RIGHT, write_evaluation, write_predictions
from screenshots import chromium, wait_until_loaded
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.nifti_labels import write_nifti_labels
from segbundle.viewer import make_server

pytestmark = needs_chromium
VOLUMES = ["scan.nii.gz", "reference.nii.gz", "prediction.nii.gz", "errors.nii.gz"]
MISSED, INVENTED = (255, 0, 255), (0, 255, 0)


@contextmanager
def served(run):
    server = make_server(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def browser(run):
    with served(run) as address, chromium() as driver:
        driver.set_window_size(1000, 800)
        driver.get(address)
        yield driver


def picture(browser):
    shot = browser.find_element("id", "canvas").screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def colored(pixels):
    """Return the number of pixels that are not gray."""
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 30).sum())


def like(pixels, color):
    """Return the number of pixels close to a color."""
    return int((np.abs(pixels - color).max(axis=2) < 60).sum())


def choose(browser, control, value):
    script = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    browser.execute_script(script + "one.dispatchEvent(new Event('input'))", control, value)
    time.sleep(0.5)


def test_scan_and_label_maps_are_drawn(browser):
    wait_until_loaded(browser)
    names = browser.execute_script("return window.viewer.volumes.map(volume => volume.name)")
    assert names == VOLUMES
    pixels = picture(browser)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # not blank
    assert colored(pixels) > 500
    for layer in ("reference", "prediction", "errors"):
        choose(browser, layer, 0)
    assert colored(picture(browser)) < colored(pixels) / 10  # the colors were those of the label maps
    choose(browser, "prediction", 1)
    assert colored(picture(browser)) > 500
    for layer in ("reference", "prediction"):
        choose(browser, layer, 0.5)


def test_outlines_are_drawn_for_visible_layers(browser):
    choose(browser, "reference", 0.2)
    before = picture(browser)
    browser.find_element("id", "outline").click()
    time.sleep(0.5)
    assert np.abs(picture(browser) - before).mean() > 0.1
    for layer in ("reference", "prediction"):
        choose(browser, layer, 0)
    assert colored(picture(browser)) < colored(before) / 10
    browser.find_element("id", "outline").click()
    for layer in ("reference", "prediction"):
        choose(browser, layer, 0.5)


def select(browser, number):
    from selenium.webdriver.support.ui import Select

    wait_until_loaded(browser)
    Select(browser.find_element("id", "case")).select_by_index(number)
    time.sleep(0.2)
    wait_until_loaded(browser)


def test_case_and_view_can_be_changed(browser):
    select(browser, 2)
    assert browser.find_element("id", "summary").text == "Dice: ball 0.750, cube 1.000"
    assert browser.current_url.endswith("#shifted")
    before = picture(browser)
    choose(browser, "view", 4)
    assert np.abs(picture(browser) - before).mean() > 1


def test_case_opens_at_most_errors_in_radiological_view(browser):
    browser.refresh()
    select(browser, 2)
    # the ball is in layers 1 to 4 along x, predicted in 2 to 5: layers 1 and 5 (2 mm) are wrong; the second is shown
    place = browser.execute_script("return [...viewer.frac2mm(viewer.scene.crosshairPos)].slice(0, 3)")
    assert place == pytest.approx([10, 4, 4], abs=0.51)
    text = browser.find_element("id", "place").text
    assert text.startswith("R 10.0, A 4.0, S 4.0 mm: ")
    assert text.endswith(("; reference background, prediction ball.", "; reference ball, prediction background."))
    sides = "return [viewer.opts.isRadiologicalConvention, viewer.opts.sagittalNoseLeft]"
    assert browser.execute_script(sides) == [True, True]


def test_report_links_to_the_viewer(browser):
    browser.find_element("link text", "Report").click()
    link = browser.find_element("css selector", "#table a.view")
    assert link.get_attribute("aria-label") == "view invented in 3D"
    link.click()
    wait_until_loaded(browser)
    assert browser.find_element("id", "status").text == ""
    assert browser.execute_script("return document.getElementById('case').selectedIndex") == 0


def test_errors_are_drawn_on_top(browser):
    browser.refresh()  # with every control as it is at first
    select(browser, 2)
    assert float(browser.find_element("id", "errors").get_attribute("value")) > 0.5
    words = browser.find_element("id", "wrong").text
    assert words == "Errors: missed or wrong class predicted in the background"
    browser.execute_script("viewer.scene.crosshairPos = viewer.vox2frac([3, 3, 3]); viewer.drawScene()")
    found = picture(browser)
    assert min(like(found, MISSED), like(found, INVENTED)) > 100
    choose(browser, "errors", 0)
    without = picture(browser)
    assert like(without, MISSED) == like(without, INVENTED) == 0


def test_selection_while_another_case_is_loading(browser):
    script = """const one = document.getElementById('case');
        for (const place of [0, 1, 3]) { one.value = place; one.dispatchEvent(new Event('change')); }"""
    browser.execute_script(script)
    wait_until_loaded(browser)
    assert browser.current_url.endswith("#perfect")
    names = browser.execute_script("return window.viewer.volumes.map(volume => volume.name)")
    assert names == VOLUMES


def test_no_external_requests_and_no_browser_errors(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    inside = ("http://127.0.0.1:", "data:", "blob:", *CHROMIUMS_OWN)
    assert [url for url in asked if not url.startswith(inside)] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_predictions_without_references_have_no_errors(browser, tmp_path):
    with served(write_predictions(tmp_path, {"a": RIGHT})) as address:
        browser.get(address)
        wait_until_loaded(browser)
        for layer in ("reference", "errors"):
            assert not browser.find_element("id", layer).is_enabled()
        assert not browser.find_element("id", "wrong").is_displayed()
        assert colored(picture(browser)) > 500


def test_volumes_are_shown_if_the_error_map_fails(browser, tmp_path):
    with served(write_evaluation(tmp_path, {"a": CASES["shifted"]}, affine_ref=np.eye(4))) as address:
        browser.get(address)
        wait_until_loaded(browser)
        assert browser.find_element("id", "status").text.startswith("Errors cannot be displayed: ")
        assert browser.execute_script("return viewer.volumes.map(volume => volume.name)") == VOLUMES[:3]
        assert browser.find_element("id", "reference").is_enabled()
        assert not browser.find_element("id", "errors").is_enabled()


def test_damaged_file_is_reported_on_the_page(browser, run):
    (run / "scans" / "invented.nii.gz").write_bytes(b"no longer a scan")
    with served(run) as address:
        browser.get(address)
        ends = time.monotonic() + 60
        while browser.execute_script("return document.body.dataset.state") != "failed":
            assert time.monotonic() < ends
            time.sleep(0.1)
        shown = browser.find_element("id", "status").text
        assert "invented cannot be displayed" in shown
        assert "invented.nii.gz" in shown


def test_label_map_without_scan_is_drawn_in_the_colors_of_the_file(browser, tmp_path):
    nib.save(nib.Nifti1Image(RIGHT, np.eye(4)), tmp_path / "scan.nii")
    table = class_table(["background", "ball", "cube"], {"ball": "#ff0000", "cube": "#0000ff"})
    write_nifti_labels(RIGHT, tmp_path / "scan.nii", tmp_path / "labels.nii.gz", table)
    with served(tmp_path / "labels.nii.gz") as address:
        browser.get(address)
        wait_until_loaded(browser)
        choose(browser, "prediction", 1)
        cube = picture(browser)
        browser.execute_script("viewer.scene.crosshairPos = viewer.vox2frac([3, 3, 3]); viewer.drawScene()")
        ball = picture(browser)
        shown = {
            name: browser.find_element("id", name).is_displayed() for name in ("report", "reference", "prediction")
        }
        legend = browser.find_element("id", "legend").text
    assert like(cube, (0, 0, 255)) > 100 and like(ball, (255, 0, 0)) > 100
    assert shown == {"report": False, "reference": False, "prediction": True}
    assert legend == "ball cube"
