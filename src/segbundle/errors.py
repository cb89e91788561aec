"""The errors a user can mend: each message names the file or key, what is wrong, and the fix."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypeVar

from segbundle.credentials import without_credentials

_E = TypeVar("_E", bound=BaseException)

_MOST_CHARACTERS, _MOST_LINES = 800, 4
_MOST_KNOWN, _MOST_ARGUMENTS = 12, 6
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 40
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}|\(0x[0-9a-fA-F]{6,}\)")
"""Memory addresses of objects in messages of ITK and Python."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal would act on, for instance in the name of a file."""


class SegbundleError(ValueError):
    """Base of every error that is caused by input (data, configuration, paths) and not by a defect.

    However long a message is made, it is shown as a few lines.
    """

    def __str__(self) -> str:
        return _shortened(super().__str__())


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


_TRACEBACK = "SEGBUNDLE_TRACEBACK"
"""Environment variable that adds the traceback to every error message."""
_ALLOCATION = re.compile(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes")
_MONAI_INSTANTIATION = "Failed to instantiate component"
_MONAI_LOCATION = "Cannot locate class or function path"
_MONAI_EVALUATION = "Failed to evaluate"
_MONAI_BUNDLE = ("monai", "bundle")
_WORK = frozenset({"initialize", "run", "finalize"})
"""Sections of a configuration whose expressions do the work, so that errors in them may have any cause."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest known one, or the known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(word[:_MOST_CHARACTERS], known, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    more = f" and {len(known) - _MOST_KNOWN} more" if len(known) > _MOST_KNOWN else ""
    return f": the known ones are {', '.join(known[:_MOST_KNOWN])}{more}."


def root_error(error: BaseException) -> BaseException:
    """The `SegbundleError` at the bottom of a chain of wrapped errors, or `error` itself if there is none.

    MONAI wraps what a transform or a component raises in a `RuntimeError`; what the user has to read is below.
    Whatever is raised while a component is made from a configuration, or while MONAI reads it, becomes a
    `ConfigError` that names the key and the first cause.
    """
    for link in _chain(error):
        if isinstance(link, SegbundleError):
            return link
    found = map(_configuration_error, reversed(list(_chain(error))))
    return next((one for one in found if one is not None), error)


def first_cause(error: BaseException) -> BaseException:
    """The error from which a chain of wrapped errors began."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def find_cause(error: BaseException, kind: type[_E]) -> _E | None:
    """Return the first error of a kind in a chain of wrapped errors; None if there is none."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, kind):
        link = link.__cause__ or link.__context__
    return link


def describe(error: BaseException) -> str:
    """One message for logs and for `predictions.json`: the error that a user can mend, or else the first cause."""
    root = root_error(error)
    return str(root) if isinstance(root, SegbundleError) else one_line(first_cause(error))


def one_line(error: BaseException) -> str:
    """Return class and message of an error in one line; errors about values and files need no class."""
    message = " ".join(str(error).split())
    if allocation := _ALLOCATION.search(message):
        return f"out of memory: {int(allocation[1]) / 1e9:.3g} GB more are needed"
    if message and isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError):
        return _shortened(message)
    return _shortened(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def show_error(error: BaseException) -> None:
    """Print an error's message to stderr, and with the environment variable SEGBUNDLE_TRACEBACK its traceback, too."""
    if os.environ.get(_TRACEBACK):
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        print(without_credentials("".join(lines)), end="", file=sys.stderr)
    root = root_error(error)
    cause = first_cause(error)
    message = str(root) if isinstance(root, SegbundleError) else one_line(cause)
    if not isinstance(root, SegbundleError) and not isinstance(cause, OSError):
        message += f"{_place(cause)}. Run it again with {_TRACEBACK}=1 to see the traceback."
    print(f"Error: {message}", file=sys.stderr)


def show_plain_errors() -> None:
    """End the program with a message and no traceback, whatever stops it (see `show_error`).

    Call it from programs only: it sets `sys.excepthook`.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            print("Stopped.", file=sys.stderr)
        else:
            show_error(error)

    sys.excepthook = hook


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _configuration_error(error: BaseException) -> ConfigError | None:
    """What is wrong with a configuration, if an error was raised while MONAI read it or made something of it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    message, cause = str(error), one_line(first_cause(error)).rstrip(".")
    keys = [frame.f_locals.get("id") for frame in frames if frame.f_code.co_name == "_resolve_one_item"]
    key = str(keys[-1]).replace("::", "#") if keys else ""
    named = f"config key {key!r}" if key else "configuration"
    if message.startswith(_MONAI_LOCATION):
        return ConfigError(f"{named}: {message} A _target_ is written in full: segbundle.losses.DiceCELoss.")
    if message.startswith(_MONAI_INSTANTIATION):
        component = re.search(r"'([^']*)'", message)
        made = f"{named} ({component[1] if component else '?'}) cannot be made{_of_arguments(frames)}"
        return ConfigError(f"{made}: {_about_arguments(cause)}.")
    if message.startswith(_MONAI_EVALUATION):
        raised = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(first_cause(error).__traceback__)]
        if key.partition("#")[0] in _WORK and raised[-1:] != ["<string>"]:  # but in what the expression calls
            return None
        return ConfigError(f"{named}: its expression cannot be evaluated: {cause}.")
    folders = [Path(frame.f_code.co_filename).parts[-3:-1] for frame in frames]
    if folders[-1:] == [_MONAI_BUNDLE] or (isinstance(error, SyntaxError) and _MONAI_BUNDLE in folders):
        return ConfigError(f"{named} cannot be read: {one_line(error).rstrip('.')}.")
    return None


def _of_arguments(frames: Sequence[FrameType]) -> str:
    """Return, in words, the plain values that a component was to be made of."""
    makers = [frame for frame in frames if frame.f_code.co_name == "instantiate"]
    given = makers[-1].f_locals.get("kwargs") if makers else None
    plain = (str, int, float, list, tuple, type(None))
    shown = [f"{key} {_SHORT.repr(value)}" for key, value in (given or {}).items() if isinstance(value, plain)]
    return f" of {', '.join(shown[:_MOST_ARGUMENTS])}" if shown else ""


def _about_arguments(cause: str) -> str:
    """Return Python's words for wrong arguments without the names of its own functions and exceptions."""
    cause = re.sub(r"^(TypeError|AttributeError|KeyError|IndexError): ", "", cause)
    cause = re.sub(r"^(\w+\.)*(\w+)\.__init__\(\)", r"\2", cause)
    return re.sub(r"got an unexpected keyword argument ('\w+')", r"has no argument \1", cause)


def _place(error: BaseException) -> str:
    """Where an error was raised: the last line of this package, or else of any."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [place for place in places if "segbundle" in Path(place[0]).parts]
    return f" ({Path((own or places)[-1][0]).name}, line {(own or places)[-1][1]})" if places else ""


def _shortened(text: str) -> str:
    """A text of a few lines at most, without secrets; of a long one beginning and end, which says what to do."""
    text = _ADDRESS.sub("", str(without_credentials(text)))
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        text = "\n".join([*lines[: _MOST_LINES - 1], f"... and {len(lines) - _MOST_LINES + 1} lines more"])
    if len(text) > _MOST_CHARACTERS:
        end = _MOST_CHARACTERS // 3
        text = f"{text[: _MOST_CHARACTERS - end - 5]} ... {text[-end:]}"
    return text
