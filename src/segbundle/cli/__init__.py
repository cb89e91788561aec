"""Command line interface: the `segbundle` command."""

from segbundle.cli.app import main

__all__ = ["main"]
