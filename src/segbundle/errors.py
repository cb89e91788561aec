"""The errors a user can mend: each message names the file or key, what is wrong, and the fix."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

_E = TypeVar("_E", bound=BaseException)


class SegbundleError(ValueError):
    """Base of every error that is caused by input (data, configuration, paths) and not by a defect."""


class DataError(SegbundleError):
    """A scan, a label map or a dataset that cannot be used as it is."""


class ConfigError(SegbundleError):
    """A configuration key or value that no workflow can use."""


class CheckpointError(SegbundleError):
    """A checkpoint that is missing, unreadable, or does not fit the network."""


class OutputError(SegbundleError):
    """An output folder that cannot be written, or already holds something that would be lost."""


class TrainingError(SegbundleError):
    """A training step that cannot be made: the loss refuses the batch."""


class PredictionError(SegbundleError):
    """A scan for which a network computes nothing that can be used."""


class ScansFailedError(SegbundleError):
    """Some scans of a batch failed; the others were finished and their results are on disk."""


_MONAI_INSTANTIATION = "Failed to instantiate component"
_MONAI_LOCATION = "Cannot locate class or function path"


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": the known ones are {', '.join(sorted(known))}."


def root_error(error: BaseException) -> BaseException:
    """The `SegbundleError` at the bottom of a chain of wrapped errors, or `error` itself if there is none.

    MONAI wraps what a transform or a component raises in a `RuntimeError`; what the user has to read is below.
    Arguments that a component of a configuration does not have, lacks, or refuses become a `ConfigError`.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, SegbundleError):
            return link
        cause = link.__cause__ or link.__context__
        if isinstance(link, ModuleNotFoundError) and str(link).startswith(_MONAI_LOCATION):
            return ConfigError(f"{link} A _target_ is written in full, for instance segbundle.losses.DiceCELoss.")
        if str(link).startswith(_MONAI_INSTANTIATION) and _is_about_arguments(cause):
            return ConfigError(f"{str(link).splitlines()[0]}: {cause}")
        link = cause
    return error


def find_cause(error: BaseException, kind: type[_E]) -> _E | None:
    """Return the first error of a kind in a chain of wrapped errors; None if there is none."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, kind):
        link = link.__cause__ or link.__context__
    return link


def _is_about_arguments(error: BaseException | None) -> bool:
    if isinstance(error, SegbundleError):
        return False
    return isinstance(error, ValueError) or (isinstance(error, TypeError) and "argument" in str(error))


def describe(error: BaseException) -> str:
    """One line for logs and for `predictions.json`: the message of the error that a user can mend."""
    root = root_error(error)
    if isinstance(root, SegbundleError):
        return str(root)
    return f"{type(root).__name__}: {root}".strip()


def show_plain_errors() -> None:
    """End the program with the message alone, not a traceback, when a `SegbundleError` stops it.

    Errors of any other kind keep their traceback, and the first cause is repeated below it, since MONAI wraps it in
    several others. Call it from programs only: it sets `sys.excepthook`.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        root = root_error(error)
        if isinstance(root, SegbundleError):
            print(f"Error: {root}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, traceback)
            print(f"First cause: {_first_cause(error)!r}", file=sys.stderr)

    sys.excepthook = hook


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
