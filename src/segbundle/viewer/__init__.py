"""Viewer of scans, references and predictions in a browser, served to this machine only."""

from segbundle.viewer.server import make_server, serve

__all__ = ["make_server", "serve"]
