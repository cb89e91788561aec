"""A web server for one run, on this machine only: its report, and its cases in NiiVue."""

from __future__ import annotations

import gzip
import json
import mimetypes
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segbundle.data.scans import read_scan
from segbundle.errors import OutputError, SegbundleError, describe
from segbundle.reports import write_prediction_report, write_report
from segbundle.reports.pictures import COLOURS
from segbundle.reports.runs import CaseFiles, files_of_run

HOST = "127.0.0.1"
_FAST = 1  # compression: it goes no further than this machine
_IN_MM = ("mm", "unknown")
_FOR_BROWSERS = (np.uint8, np.int16, np.float32)
_STATIC = Path(__file__).parent / "static"
_STATIC_FILES = frozenset({"viewer.css", "viewer.js", "niivue/niivue.umd.js"})
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; font-src 'self' data:; worker-src blob:"
)


@dataclass(frozen=True)
class _Case:
    """A case that can be shown: its volumes by name, and what is said of it."""

    name: str
    scores: str
    volumes: dict[str, str]


def serve(run: str | Path, port: int = 0, browser: bool = True) -> None:
    """Serve a run until it is interrupted.

    Args:
        run: folder of an evaluation, a cross-validation or predictions.
        port: 0 for any free one.
        browser: whether to open the page.

    Raises:
        OutputError: the folder holds neither scores nor predictions, or no files of cases are known; or the port is
            taken.
    """
    server = make_server(run, port)
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


def make_server(run: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """The server of a run, bound to 127.0.0.1; see `serve`."""
    run = Path(run)
    report = run / "report.html"
    if not report.exists():
        (write_report if (run / "metrics.csv").exists() else write_prediction_report)(run)
    cases, class_names = files_of_run(run)
    shown = [_Case(case, scores, _volumes(files)) for case, scores, files in cases]
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, report, shown, class_names))
    except OSError as error:
        raise OutputError(f"port {port} cannot be used ({error.strerror}); choose another --port, or none.") from error


def _volumes(files: CaseFiles) -> dict[str, str]:
    given = {"scan": files.first_image, "reference": files.reference, "prediction": files.prediction}
    return {name: path for name, path in given.items() if path is not None and Path(path).exists()}


class _Handler(BaseHTTPRequestHandler):
    """Answers for what it knows and nothing else: no part of an address is ever used as a path."""

    def __init__(
        self, report: Path, cases: Sequence[_Case], class_names: Sequence[str], *args: Any, **kwargs: Any
    ) -> None:
        self.report, self.cases, self.class_names = report, cases, class_names
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
            kind = mimetypes.guess_type(name)[0] or "text/plain"
            self._send((_STATIC / name).read_bytes(), kind)
        else:
            self._send_volume(address)

    def _described(self) -> dict[str, Any]:
        classes = [
            {"name": name, "colour": COLOURS[index % len(COLOURS)]} for index, name in enumerate(self.class_names)
        ]
        cases = [
            {
                "case": case.name,
                "label": f"{case.name} ({case.scores})" if case.scores else case.name,
                "scores": case.scores,
                "volumes": list(case.volumes),
                "problem": None if "scan" in case.volumes else "The scan is not where it was.",
            }
            for case in self.cases
        ]
        return {"cases": cases, "classes": classes}

    def _send_volume(self, address: str) -> None:
        """A volume as NIfTI: `/volumes/<number of the case>/<name of the volume>.nii.gz`."""
        known = {
            f"/volumes/{number}/{name}.nii.gz": (name, path)
            for number, case in enumerate(self.cases)
            for name, path in case.volumes.items()
        }
        if address not in known:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            content = _as_nifti(*known[address], len(self.class_names))
        except (SegbundleError, OSError) as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, describe(error).encode("ascii", "replace").decode())
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


def _as_nifti(name: str, path: str, num_classes: int) -> bytes:
    """A file as compressed NIfTI in mm, of types that browsers can read: as it is if it is such a scan.

    Values of a label map that are no class, such as unknown voxels, become background.
    """
    if name == "scan" and path.endswith(".nii.gz") and nib.load(path).header.get_xyzt_units()[0] in _IN_MM:  # type: ignore[attr-defined]
        return Path(path).read_bytes()
    scan = read_scan(path, None)
    array = scan.array[0]
    if name != "scan":
        array = np.where((array >= 0) & (array <= num_classes), array, 0).astype(np.uint8)
    elif array.dtype not in _FOR_BROWSERS:
        array = array.astype(np.float32)
    return gzip.compress(nib.Nifti1Image(array, scan.geometry.affine).to_bytes(), _FAST)
