"""Looking at scans, references and predictions in a browser, served from this machine to itself only."""

from segbundle.viewer.server import make_server, serve

__all__ = ["make_server", "serve"]
