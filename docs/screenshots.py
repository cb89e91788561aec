"""Take the screenshots of the documentation from a run of `make demo`. Requires chromium and chromedriver.

    python docs/screenshots.py runs/demo

The images are written to docs/images, or to the folder --output.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.datasets.phantoms import make_phantom
from segbundle.report.comparison import write_comparison
from segbundle.report.page import write_report
from segbundle.report.prediction_page import write_prediction_report
from segbundle.viewer import make_server

ROOT = Path(__file__).parents[1]
WIDTH = 1280
_SEGBUNDLE = str(Path(sys.executable).parent / "segbundle")
_PHANTOM_SHAPE = (80, 66, 74)
_FLAGS = (
    "headless", "no-sandbox", "disable-background-networking", "disable-dev-shm-usage", "hide-scrollbars",
    "use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader",  # WebGL without a GPU
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a Selenium driver of a headless browser with a temporary profile, and quit the browser at the end."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*_FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.get("about:blank")  # the first tab shows chromium's own page
            yield driver
        finally:
            driver.quit()


def wait_until_loaded(driver: Any, seconds: float = 120) -> None:
    """Wait until the viewer shows a case.

    Raises:
        TimeoutError: no case is shown within `seconds`.
    """
    ends = time.monotonic() + seconds
    while driver.execute_script("return document.body.dataset.state") != "loaded":
        if time.monotonic() > ends:
            raise TimeoutError(driver.execute_script("return document.getElementById('status').textContent"))
        time.sleep(0.1)
    time.sleep(1)  # until the case is drawn


def take(driver: Any, address: str, target: Path, height: int, dark: bool = False, at: str = "") -> None:
    """Open an address, scroll to the section `at`, and save a screenshot of the window."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.set_window_size(WIDTH, height)
    driver.get("about:blank")
    driver.get(f"{address}#{at}" if at else address)
    time.sleep(0.5)
    driver.save_screenshot(str(target))
    print(target)


def with_mirror_images(run: Path, output: Path) -> None:
    """Repeat the demo's evaluation with test-time flips."""
    command = [
        _SEGBUNDLE, "evaluate", "--config", "configs/phantom.yaml",
        "--dataset_dir", "data_samples", "--data_list_key", "test",
        "--ckpt_path", str(run / "training" / "model.pt"), "--output_dir", str(output), "--test_time_flips", "[0]",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def dicom_segmentation(run: Path, folder: Path) -> Path:
    """Segment a phantom that is stored as a DICOM series with the demo's model; return the path of the DICOM SEG."""
    sys.path.append(str(ROOT / "tests"))
    from dicoms import write_series

    phantom = make_phantom(np.random.default_rng(1), _PHANTOM_SHAPE, axis_codes="LPS")
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0).round(4).tolist()
    write_series(folder / "ct", phantom.image.round().astype(np.int16), spacing)
    command = [
        _SEGBUNDLE, "predict", str(folder / "ct"), "--config", "configs/phantom.yaml",
        "--ckpt_path", str(run / "training" / "model.pt"), "--output_dir", str(folder / "segmentation"),
        "--output_format", "dicom_seg", "--class_colors", "{liver: '#aa3311', kidney: '#2288ee', vessel: '#22aa55'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return folder / "segmentation" / "ct_seg.dcm"


@contextmanager
def served(path: Path) -> Iterator[str]:
    """Serve the viewer of a run or a label map; yield its address."""
    server = make_server(path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def take_viewer(driver: Any, path: Path, target: Path) -> None:
    """Save a screenshot of the viewer of a run or a label map."""
    driver.set_window_size(WIDTH, 700)
    with served(path) as address:
        driver.get(address)
        wait_until_loaded(driver)
        driver.save_screenshot(str(target))
    print(target)


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of an evaluation with predictions in it, such as runs/demo")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images")
    arguments = parser.parse_args()
    run, output = arguments.run.resolve(), arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    report = write_report(run).as_uri()
    with chromium() as driver, tempfile.TemporaryDirectory() as folder:
        take(driver, report, output / "report.png", 900)
        take(driver, report, output / "report_pictures.png", 800, at="pictures")
        take(driver, report, output / "report_dark.png", 900, dark=True, at="cases")
        runs = Path(folder) / "runs"
        shutil.copytree(run, runs / "demo", ignore=shutil.ignore_patterns("training", "predictions"))
        with_mirror_images(run, runs / "mirrored")
        os.chdir(folder)  # pages show folders as given
        comparison = write_comparison(["runs/demo", "runs/mirrored"], Path(folder) / "comparison.html")
        take(driver, comparison.as_uri(), output / "comparison.png", 800)
        take(driver, comparison.as_uri(), output / "comparison_pictures.png", 800, at="pictures")
        predictions = write_prediction_report(run / "predictions", Path(folder) / "predictions.html")
        take(driver, predictions.as_uri(), output / "predictions.png", 900)
        take_viewer(driver, run, output / "viewer.png")
        segmentation = dicom_segmentation(run, Path(folder))
        take_viewer(driver, segmentation, output / "viewer_dicom_seg.png")


if __name__ == "__main__":
    main()
