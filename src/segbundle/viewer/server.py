"""A web server for one run, on this machine only: its report, and its cases in NiiVue."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError, describe
from segbundle.files import run_files
from segbundle.files.output_folders import folder_of
from segbundle.files.run_files import RESULTS
from segbundle.report.colors import COLOURS
from segbundle.report.page import write_report
from segbundle.report.prediction_page import write_prediction_report
from segbundle.results.runs import holds_scores, window_of
from segbundle.viewer.shown_cases import ShownCase, shown_cases, with_warnings
from segbundle.viewer.volumes import nifti_volume

_logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
_REPORT_SOURCES = ("predictions*.json*", *RESULTS, "*_seg.nii.gz", "fold_*/evaluation/*_seg.nii.gz")
_ERRORS = (
    {"name": "missed or wrong class", "colour": (255, 0, 255)},
    {"name": "predicted in the background", "colour": (0, 255, 0)},
)
"""Of the values of an error map (`volumes.py`) from 1 on. Colour-blind eyes tell the two colours from each other, from
grey, and from the classes' colours laid over it (simulated as by Machado 2009)."""
_STATIC = Path(__file__).parent / "static"
_STATIC_FILES = {"viewer.css": "text/css", "viewer.js": "text/javascript", "niivue/niivue.umd.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; font-src 'self' data:; worker-src blob:"
)


def serve(run: str | Path, port: int = 0, browser: bool = True, dataset_dir: str | Path | None = None) -> None:
    """Serve a run until it is interrupted.

    Its report is written first, if there is none or something of the run is newer; of a folder that cannot be written,
    into a temporary one.

    Args:
        run: folder of an evaluation, a cross-validation or predictions.
        port: 0 for any free one.
        browser: whether to open the page.
        dataset_dir: where the scans are now, if they were moved.

    Raises:
        OutputError: the folder holds neither scores nor predictions, or no files of cases are known; or the port is
            taken.
    """
    server = make_server(run, port, dataset_dir)
    for number in (signal.SIGINT, signal.SIGTERM):  # the normal end, at which a temporary report is removed
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    address = f"http://{HOST}:{server.server_port}/"
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def make_server(run: str | Path, port: int = 0, dataset_dir: str | Path | None = None) -> ThreadingHTTPServer:
    """The server of a run, bound to 127.0.0.1; see `serve`. Close it, or a temporary report stays until Python ends."""
    run = Path(run)
    cases, class_names, made_by = shown_cases(run, dataset_dir)
    if not cases:
        raise OutputError(
            f"{run}: does not tell where files of cases are; give the output_dir of `segbundle evaluate`, "
            f"`cross-validate` or `predict`. Scores alone are shown by: segbundle report {run}"
        )
    report, temporary = _report(run, dataset_dir)
    if not holds_scores(run):
        cases = with_warnings(cases, report.with_name("measurements.csv"))
    try:
        return _Server(port, partial(_Handler, report, cases, class_names, window_of(made_by)), temporary)
    except OSError as error:
        raise OutputError(f"port {port} cannot be used ({error.strerror}); choose another --port, or none.") from error


def _report(run: Path, dataset_dir: str | Path | None) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """A run's report, written anew if the run is newer, and the temporary folder that it had to be written to."""
    path = run / "report.html"
    newest = max(source.stat().st_mtime_ns for pattern in _REPORT_SOURCES for source in run.glob(pattern))
    if dataset_dir is None and path.is_file() and path.stat().st_mtime_ns >= newest:
        return path, None
    write = write_report if holds_scores(run) else write_prediction_report
    try:
        with tempfile.TemporaryFile(dir=run):  # or pictures are drawn for minutes before the folder refuses them
            pass
        folder_of(run).refuse_foreign(
            [run_files.REPORT] if holds_scores(run) else [run_files.REPORT, run_files.MEASUREMENTS]
        )
    except (OSError, OutputError) as error:
        temporary = tempfile.TemporaryDirectory(prefix="segbundle-")
        _logger.warning(
            "%s: cannot be written (%s); until the viewer ends, its report is in %s.", run, error, temporary.name
        )
        return write(run, Path(temporary.name) / path.name, dataset_dir), temporary
    return write(run, None, dataset_dir), None


class _Server(ThreadingHTTPServer):
    """A server that takes the folder of a temporary report with it when it is closed."""

    def __init__(self, port: int, handler: Any, temporary: tempfile.TemporaryDirectory[str] | None) -> None:
        self.temporary = temporary
        super().__init__((HOST, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about a browser that has hung up, and log what else goes wrong with a request."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            _logger.warning("A request failed: %s", describe(error))

    def server_close(self) -> None:
        """Free the port, and remove what was there for this server only."""
        super().server_close()
        if self.temporary is not None:
            self.temporary.cleanup()


class _Handler(BaseHTTPRequestHandler):
    """Answers for what it knows and nothing else: no part of an address is ever used as a path."""

    def __init__(
        self,
        report: Path,
        cases: Sequence[ShownCase],
        class_names: Sequence[str],
        window: Sequence[float] | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.report, self.cases, self.class_names, self.window = report, cases, class_names, window
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Answer a request."""
        server: Any = self.server
        if self.headers.get("Host") not in {f"{name}:{server.server_port}" for name in (HOST, "localhost")}:
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers to its own name only.")
            return
        address = self.path.partition("?")[0]
        if address == "/":
            self._send((_STATIC / "viewer.html").read_bytes(), "text/html; charset=utf-8", _POLICY)
        elif address == "/report.html":
            self._send(self.report.read_bytes(), "text/html; charset=utf-8")
        elif address == "/cases.json":
            self._send(json.dumps(self._described()).encode(), "application/json")
        elif (name := address.removeprefix("/static/")) in _STATIC_FILES:
            self._send((_STATIC / name).read_bytes(), _STATIC_FILES[name])
        else:
            self._send_volume(address)

    def _described(self) -> dict[str, Any]:
        classes = [
            {"name": name, "colour": COLOURS[index % len(COLOURS)]} for index, name in enumerate(self.class_names)
        ]
        cases = [
            {
                "case": case.name,
                "label": f"{case.name} ({_shortened(case.told)})" if case.told else case.name,
                "told": case.told,
                "volumes": case.volumes,
                "problem": None
                if "scan" in case.files
                else "The scan is not where it was; if the dataset was moved, say where it is with --dataset_dir.",
            }
            for case in self.cases
        ]
        return {"cases": cases, "classes": classes, "errors": _ERRORS, "window": self.window}

    def _send_volume(self, address: str) -> None:
        """A volume as NIfTI: `/volumes/<number of the case>/<name of the volume>.nii.gz`."""
        known = {
            f"/volumes/{number}/{name}.nii.gz": (case, name)
            for number, case in enumerate(self.cases)
            for name in case.volumes
        }
        if address not in known:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        case, name = known[address]
        try:
            content = nifti_volume(case, name, len(self.class_names))
        except Exception as error:  # nobody knows what can be wrong with a file; the page says it
            told = describe(error)
            if not any(path in told for path in case.files.values()):
                told = f"{case.files.get(name, case.name)}: {told}"
            _logger.debug("volume", exc_info=True)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, _one_line(told))
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
        """Say nothing of single requests."""


def _shortened(words: str, most: int = 80) -> str:
    """What fits into a list."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _one_line(words: str) -> str:
    """What may stand in the first line of an answer."""
    return " ".join(words.split()).encode("ascii", "replace").decode()
