"""Local web server for one run or label map, with the report of the run and a NiiVue viewer of its cases."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError, OutputError, describe
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of
from segbundle.files.run_files import RESULTS
from segbundle.report.colors import colors_of_run
from segbundle.report.page import write_report
from segbundle.report.prediction_page import write_prediction_report
from segbundle.results.made_by import window_of
from segbundle.results.runs import holds_scores
from segbundle.segmentations.named_labels import TaskClasses
from segbundle.segmentations.palette import ERROR_COLORS
from segbundle.viewer.label_files import is_label_file, read_label_file
from segbundle.viewer.shown_cases import ShownCase, shown_cases, with_warnings
from segbundle.viewer.volumes import nifti_volume

_logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
_LABEL_MAPS = tuple(f"*{suffix}" for suffix in run_files.LABEL_MAP_SUFFIXES.values())
_REPORT_SOURCES = ("predictions*.json*", *RESULTS, *_LABEL_MAPS, *(f"fold_*/evaluation/{name}" for name in _LABEL_MAPS))
_ERRORS = (
    {"name": "missed or wrong class", "color": ERROR_COLORS[0]},
    {"name": "predicted in the background", "color": ERROR_COLORS[1]},
)
"""Legend of the error map (`volumes.py`), from value 1."""
_STATIC = Path(__file__).parent / "static"
_STATIC_FILES = {"viewer.css": "text/css", "viewer.js": "text/javascript", "niivue/niivue.umd.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; font-src 'self' data:; worker-src blob:"
)


@dataclass(frozen=True)
class _Content:
    """Content of the viewer.

    Attributes:
        cases: cases to show.
        class_colors: color of each foreground class by name.
        volume: function that returns a volume of a case by its name, as gzipped NIfTI.
        no_scan: message for cases without scan.
        report: path of the report; None (default) for a single label map.
        window: intensities that are shown as black and white. Default: chosen by the browser.
    """

    cases: Sequence[ShownCase]
    class_colors: Mapping[str, Sequence[int]]
    volume: Callable[[ShownCase, str], bytes]
    no_scan: str
    report: Path | None = None
    window: Sequence[float] | None = None


def serve(
    run: str | Path,
    port: int = 0,
    browser: bool = True,
    dataset_dir: str | Path | None = None,
    scan: str | Path | None = None,
    classes: TaskClasses | None = None,
) -> None:
    """Serve the report and the cases of a run, or a label map, on 127.0.0.1 until the program is interrupted.

    The URL is printed. The report is written first if it is missing or older than the files of the run, or if
    `dataset_dir` is given. If the folder of the run cannot be written, the report is written to a temporary folder,
    which is removed when the server stops.

    Args:
        run: folder of an evaluation, a cross-validation or predictions; or path of a label map.
        port: port to listen on; 0 (default) selects a free port.
        browser: whether to open the page in a browser (default True).
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.
        scan: scan of a label map. Default: see `read_label_file`.
        classes: classes of a label map. Default: those in the file.

    Raises:
        ConfigError: see `make_server`.
        DataError: see `make_server`.
        OutputError: see `make_server`.

    Example:
        >>> serve("runs/liver/evaluation", port=8000)  # doctest: +SKIP
        http://127.0.0.1:8000/  (press Ctrl-C to stop)
    """
    server = make_server(run, port, dataset_dir, scan, classes)
    for number in (signal.SIGINT, signal.SIGTERM):  # end normally and remove a temporary report
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    address = f"http://{HOST}:{server.server_port}/"
    print(f"{address}  (press Ctrl-C to stop)", flush=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def make_server(
    run: str | Path,
    port: int = 0,
    dataset_dir: str | Path | None = None,
    scan: str | Path | None = None,
    classes: TaskClasses | None = None,
) -> ThreadingHTTPServer:
    """Return the web server of a run or a label map, bound to 127.0.0.1.

    The report of the run is written first, as in `serve`. Close the server to free the port and remove a temporary
    report.

    Args:
        run: folder of an evaluation, a cross-validation or predictions; or path of a label map.
        port: port to listen on; 0 (default) selects a free port.
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.
        scan: scan of a label map. Default: see `read_label_file`.
        classes: classes of a label map. Default: those in the file.

    Raises:
        ConfigError: an argument does not apply, or a color of `classes` is not valid.
        DataError: the label map cannot be read, see `read_label_file`.
        OutputError: the folder has neither scores nor predictions or cannot be read, the files of the cases are unknown
            or missing, or the port cannot be used.

    Example:
        >>> server = make_server("runs/liver/evaluation")  # doctest: +SKIP
        >>> server.serve_forever()  # doctest: +SKIP
    """
    run = Path(run)
    content, temporary = None, None
    if is_label_file(run):
        if dataset_dir is not None:
            raise ConfigError(f"{run} is a file, for which dataset_dir does not apply. Give its scan with --scan.")
        content = _label_file(run, scan, classes)
    elif scan is not None or (classes is not None and classes.names):
        raise ConfigError(f"{run} is a folder, whose scans and classes are recorded. Omit --scan and --config.")
    else:
        content, temporary = _run(run, dataset_dir)
    try:
        return _Server(port, partial(_Handler, content), temporary)
    except OSError as error:
        raise OutputError(f"port {port} cannot be used ({error.strerror}). Use another --port or omit it.") from error


def _label_file(path: Path, scan: str | Path | None, classes: TaskClasses | None) -> _Content:
    """Return a single label map and its scan as the content of the viewer."""
    label = read_label_file(path, scan, classes)
    return _Content(
        [label.case],
        {entry.name: entry.color for entry in label.table},
        lambda case, name: label.content if name == "prediction" else nifti_volume(case, name, []),
        "The scan of this label map is not known. Give it with --scan.",
    )


def _run(run: Path, dataset_dir: str | Path | None) -> tuple[_Content, tempfile.TemporaryDirectory[str] | None]:
    """Return the cases and the report of a run, and the temporary folder of the report if there is one."""
    cases, class_names, made_by = shown_cases(run, dataset_dir)
    if not cases:
        raise OutputError(
            f"{run} does not list the files of its cases. Give the output_dir of `segbundle evaluate`, "
            f"`cross-validate` or `predict`. For scores without scans, run: segbundle report {run}"
        )
    colors = dict(zip(class_names, colors_of_run(run, made_by, class_names), strict=True))
    report, temporary = _update_report(run, dataset_dir)
    if not holds_scores(run):
        cases = with_warnings(cases, report.with_name("measurements.csv"))
    no_scan = "The scan does not exist. If the dataset was moved, give its new folder with --dataset_dir."
    volume = partial(nifti_volume, class_names=class_names)
    return _Content(cases, colors, volume, no_scan, report, window_of(made_by)), temporary


def _update_report(run: Path, dataset_dir: str | Path | None) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Write the report of a run if it is missing or outdated; return its path, and its temporary folder if any."""
    path = run / "report.html"
    newest = max(source.stat().st_mtime_ns for pattern in _REPORT_SOURCES for source in run.glob(pattern))
    if dataset_dir is None and path.is_file() and path.stat().st_mtime_ns >= newest:
        return path, None
    write = write_report if holds_scores(run) else write_prediction_report
    try:
        with tempfile.TemporaryFile(dir=run):  # fail before slices are drawn for minutes
            pass
        folder_of(run).refuse_foreign(
            [run_files.REPORT] if holds_scores(run) else [run_files.REPORT, run_files.MEASUREMENTS]
        )
    except (OSError, OutputError) as error:
        temporary = tempfile.TemporaryDirectory(prefix="segbundle-")
        _logger.warning(
            "%s: cannot be written (%s). The report is in %s until the viewer ends.", run, error, temporary.name
        )
        return write(run, Path(temporary.name) / path.name, dataset_dir), temporary
    return write(run, None, dataset_dir), None


class _Server(ThreadingHTTPServer):
    """HTTP server that removes the folder of a temporary report when it is closed."""

    def __init__(self, port: int, handler: Any, temporary: tempfile.TemporaryDirectory[str] | None) -> None:
        self.temporary = temporary
        super().__init__((HOST, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed request, unless the browser closed the connection."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            _logger.warning("A request failed: %s", describe(error))

    def server_close(self) -> None:
        """Free the port and remove the temporary report."""
        super().server_close()
        if self.temporary is not None:
            self.temporary.cleanup()


class _Handler(BaseHTTPRequestHandler):
    """Handler for a fixed set of URL paths. No part of a request is used as a file path."""

    def __init__(self, content: _Content, *args: Any, **kwargs: Any) -> None:
        self.content = content
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Answer a request."""
        server: Any = self.server
        if self.headers.get("Host") not in {f"{name}:{server.server_port}" for name in (HOST, "localhost")}:
            self.send_error(HTTPStatus.FORBIDDEN, "Unknown host name.")
            return
        address = self.path.partition("?")[0]
        if address == "/":
            self._send((_STATIC / "viewer.html").read_bytes(), "text/html; charset=utf-8", _POLICY)
        elif address == "/report.html" and self.content.report is not None:
            self._send(self.content.report.read_bytes(), "text/html; charset=utf-8")
        elif address == "/cases.json":
            self._send(json.dumps(self._describe()).encode(), "application/json")
        elif (name := address.removeprefix("/static/")) in _STATIC_FILES:
            self._send((_STATIC / name).read_bytes(), _STATIC_FILES[name])
        else:
            self._send_volume(address)

    def _describe(self) -> dict[str, Any]:
        classes = [{"name": name, "color": color} for name, color in self.content.class_colors.items()]
        cases = [
            {
                "case": case.name,
                "label": f"{case.name} ({_shorten(case.summary)})" if case.summary else case.name,
                "summary": case.summary,
                "volumes": case.volumes,
                "problem": None if "scan" in case.files else self.content.no_scan,
            }
            for case in self.content.cases
        ]
        return {
            "cases": cases,
            "classes": classes,
            "errors": _ERRORS,
            "window": self.content.window,
            "report": self.content.report is not None,
        }

    def _send_volume(self, address: str) -> None:
        """Send a volume as NIfTI for `/volumes/<number of the case>/<name of the volume>.nii.gz`."""
        known = {
            f"/volumes/{number}/{name}.nii.gz": (case, name)
            for number, case in enumerate(self.content.cases)
            for name in case.volumes
        }
        if address not in known:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        case, name = known[address]
        try:
            content = self.content.volume(case, name)
        except Exception as error:  # damaged files raise many kinds of errors; the page shows the message
            message = describe(error)
            if not any(path in message for path in case.files.values()):
                message = f"{case.files.get(name, case.name)}: {message}"
            _logger.debug("volume", exc_info=True)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, _to_ascii_line(message))
            return
        self._send(content, "application/gzip")

    def _send(self, content: bytes, kind: str, policy: str | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log single requests."""


def _shorten(text: str, max_length: int = 80) -> str:
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def _to_ascii_line(text: str) -> str:
    """Return text that is valid in the status line of an HTTP response."""
    return " ".join(text.split()).encode("ascii", "replace").decode()
