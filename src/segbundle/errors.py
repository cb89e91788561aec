"""Errors for users, and their messages. Each message names the file or key, the problem, and the fix."""

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
from segbundle.masking import masked

_E = TypeVar("_E", bound=BaseException)

_MOST_CHARACTERS, _MOST_LINES = 800, 4
_MOST_KNOWN, _MOST_ARGUMENTS = 12, 6
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 40
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}|\(0x[0-9a-fA-F]{6,}\)")
"""Memory addresses in messages of ITK and Python."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, for instance in file names; a terminal would interpret them."""


class SegbundleError(ValueError):
    """Base class of errors caused by input (data, configuration, paths), not by a defect of the program.

    A long message is shortened to a few lines.

    Example:
        >>> str(SegbundleError("ct.nii.gz: no such file."))
        'ct.nii.gz: no such file.'
    """

    def __str__(self) -> str:
        return _shortened(super().__str__())


class DataError(SegbundleError):
    """Error for a scan, a label map or a dataset that cannot be used.

    Example:
        >>> raise DataError("ct.nii.gz: no such file.")
        Traceback (most recent call last):
        ...
        segbundle.errors.DataError: ct.nii.gz: no such file.
    """


class ConfigError(SegbundleError):
    """Error for an invalid configuration key or value.

    Example:
        >>> raise ConfigError("max_epochs is 0; it must be at least 1.")
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: max_epochs is 0; it must be at least 1.
    """


class CheckpointError(SegbundleError):
    """Error for a checkpoint that is missing, unreadable, or does not fit the network.

    Example:
        >>> raise CheckpointError("model.pt: no such file.")
        Traceback (most recent call last):
        ...
        segbundle.errors.CheckpointError: model.pt: no such file.
    """


class OutputError(SegbundleError):
    """Error for an output that cannot be written, or that would replace files that must be kept.

    Example:
        >>> raise OutputError("runs/1: cannot be written.")
        Traceback (most recent call last):
        ...
        segbundle.errors.OutputError: runs/1: cannot be written.
    """


class TrainingError(SegbundleError):
    """Error for a training step that fails, for instance because the loss does not accept the batch.

    Example:
        >>> raise TrainingError("case a: the loss is NaN.")
        Traceback (most recent call last):
        ...
        segbundle.errors.TrainingError: case a: the loss is NaN.
    """


class PredictionError(SegbundleError):
    """Error for a scan for which the output of the network cannot be used, for instance because of NaN values.

    Example:
        >>> raise PredictionError("case a: the logits are NaN.")
        Traceback (most recent call last):
        ...
        segbundle.errors.PredictionError: case a: the logits are NaN.
    """


class ScansFailedError(SegbundleError):
    """Error for a batch in which some scans failed. The results of the other scans are complete and on disk.

    Example:
        >>> raise ScansFailedError("1 of 3 scans failed.")
        Traceback (most recent call last):
        ...
        segbundle.errors.ScansFailedError: 1 of 3 scans failed.
    """


_TRACEBACK = "SEGBUNDLE_TRACEBACK"
"""Environment variable that adds the traceback to every error message."""
_ALLOCATION = re.compile(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes")
_MONAI_INSTANTIATION = "Failed to instantiate component"
_MONAI_LOCATION = "Cannot locate class or function path"
_MONAI_EVALUATION = "Failed to evaluate"
_MONAI_BUNDLE = ("monai", "bundle")
_RUN_SECTIONS = frozenset({"initialize", "run", "finalize"})
"""Sections of a configuration whose expressions run the workflow; their errors can have any cause."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the closest known word, or else a list of known words.

    Args:
        word: unknown word.
        known: valid words.

    Example:
        >>> suggestion("splen", ["liver", "spleen"]), suggestion("xyz", ["b", "a"])
        (": did you mean 'spleen'?", ': expected one of a, b.')
    """
    known = sorted(known)
    near = difflib.get_close_matches(word[:_MOST_CHARACTERS], known, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    more = f" and {len(known) - _MOST_KNOWN} more" if len(known) > _MOST_KNOWN else ""
    return f": expected one of {', '.join(known[:_MOST_KNOWN])}{more}."


def root_error(error: BaseException) -> BaseException:
    """Return the error to report for a chain of wrapped errors: a `SegbundleError` if possible, else `error` itself.

    MONAI wraps errors of transforms and components in a `RuntimeError`. The first `SegbundleError` in the chain is
    returned. If there is none, but an error was raised while MONAI read a configuration, or created a component from
    it, a new `ConfigError` that names the key and the first cause is returned.

    Args:
        error: exception.

    Example:
        >>> error = RuntimeError("applying transform")
        >>> error.__cause__ = DataError("ct.nii.gz: no such file.")
        >>> root_error(error)
        DataError('ct.nii.gz: no such file.')
    """
    for link in _chain(error):
        if isinstance(link, SegbundleError):
            return link
    found = map(_configuration_error, reversed(list(_chain(error))))
    return next((converted for converted in found if converted is not None), error)


def first_cause(error: BaseException) -> BaseException:
    """Return the innermost error in a chain of wrapped errors, which caused all others.

    Args:
        error: exception.

    Example:
        >>> error = RuntimeError("outer")
        >>> error.__cause__ = KeyError("inner")
        >>> first_cause(error)
        KeyError('inner')
    """
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def find_cause(error: BaseException, kind: type[_E]) -> _E | None:
    """Return the first error of a given class in a chain of wrapped errors, or None if the chain has no such error.

    Args:
        error: exception; its class is checked first, then the class of the error that caused it, and so on.
        kind: class to search for.

    Example:
        >>> error = RuntimeError("outer")
        >>> error.__cause__ = KeyError("inner")
        >>> find_cause(error, KeyError)
        KeyError('inner')
    """
    return next((link for link in _chain(error) if isinstance(link, kind)), None)


def describe(error: BaseException) -> str:
    """Return the message of the `SegbundleError` in a chain of wrapped errors, or else of the first cause.

    Logs and `predictions.json` contain this message.

    Args:
        error: exception.

    Example:
        >>> describe(DataError("ct.nii.gz: no such file."))
        'ct.nii.gz: no such file.'
    """
    root = root_error(error)
    return str(root) if isinstance(root, SegbundleError) else one_line(first_cause(error))


def one_line(error: BaseException) -> str:
    """Return the class and the message of an error as one line.

    The class name is omitted for `TypeError`, `OSError` and `ValueError`, but kept for `UnicodeError` (a subclass of
    `ValueError`) and for errors without a message. If PyTorch could not allocate memory on the CPU, the line contains
    only the size of the allocation.

    Args:
        error: exception.

    Example:
        >>> one_line(KeyError("a")), one_line(ValueError("a is 3"))
        ("KeyError: 'a'", 'a is 3')
    """
    message = " ".join(str(error).split())
    if allocation := _ALLOCATION.search(message):
        return f"out of memory: another {int(allocation[1]) / 1e9:.3g} GB are needed"
    if message and isinstance(error, (ValueError, TypeError, OSError)) and not isinstance(error, UnicodeError):
        return _shortened(message)
    return _shortened(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def show_error(error: BaseException) -> None:
    """Print the message of an error to stderr, with its traceback if SEGBUNDLE_TRACEBACK is set.

    Args:
        error: exception.

    Example:
        >>> show_error(DataError("ct.nii.gz: no such file."))  # prints "Error: ct.nii.gz: no such file."
    """
    if os.environ.get(_TRACEBACK):
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        print(masked(str(without_credentials("".join(lines)))), end="", file=sys.stderr)
    root = root_error(error)
    cause = first_cause(error)
    message = str(root) if isinstance(root, SegbundleError) else one_line(cause)
    if not isinstance(root, SegbundleError) and not isinstance(cause, OSError):
        message += f"{_location(cause)}. Run it again with {_TRACEBACK}=1 to see the traceback."
    print(f"Error: {message}", file=sys.stderr)


def show_plain_errors() -> None:
    """Show uncaught errors as messages without a traceback (see `show_error`).

    Call this function only in programs, not in libraries, because it sets `sys.excepthook`.

    Example:
        >>> hook = sys.excepthook
        >>> show_plain_errors()
        >>> sys.excepthook = hook
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
    """Return a `ConfigError` if an error was raised while MONAI read a configuration or created its components."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    message, cause = str(error), one_line(first_cause(error)).rstrip(".")
    keys = [frame.f_locals.get("id") for frame in frames if frame.f_code.co_name == "_resolve_one_item"]
    key = str(keys[-1]).replace("::", "#") if keys else ""
    named = f"config key {key!r}" if key else "configuration"
    if message.startswith(_MONAI_LOCATION):
        return ConfigError(
            f"{named}: {message} Write the full path of a _target_, such as segbundle.losses.DiceCELoss."
        )
    if message.startswith(_MONAI_INSTANTIATION):
        component = re.search(r"'([^']*)'", message)
        failed = f"{named} ({component[1] if component else '?'}) cannot be created{_format_arguments(frames)}"
        return ConfigError(f"{failed}: {_clean_cause(cause)}.")
    if message.startswith(_MONAI_EVALUATION):
        raised = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(first_cause(error).__traceback__)]
        if key.partition("#")[0] in _RUN_SECTIONS and raised[-1:] != ["<string>"]:  # raised by a callee
            return None
        return ConfigError(f"{named}: its expression cannot be evaluated: {cause}. Correct it.")
    folders = [Path(frame.f_code.co_filename).parts[-3:-1] for frame in frames]
    if folders[-1:] == [_MONAI_BUNDLE] or (isinstance(error, SyntaxError) and _MONAI_BUNDLE in folders):
        return ConfigError(f"{named} cannot be read: {one_line(error).rstrip('.')}. Correct it.")
    return None


def _format_arguments(frames: Sequence[FrameType]) -> str:
    """Return the plain arguments of a component as text."""
    makers = [frame for frame in frames if frame.f_code.co_name == "instantiate"]
    given = makers[-1].f_locals.get("kwargs") if makers else None
    plain = (str, int, float, list, tuple, type(None))
    shown = [f"{key}={_SHORT.repr(value)}" for key, value in (given or {}).items() if isinstance(value, plain)]
    return f" with {', '.join(shown[:_MOST_ARGUMENTS])}" if shown else ""


def _clean_cause(cause: str) -> str:
    """Return Python's message about wrong arguments without the names of internal functions and exceptions."""
    cause = re.sub(r"^(TypeError|AttributeError|KeyError|IndexError): ", "", cause)
    cause = re.sub(r"^(\w+\.)*(\w+)\.__init__\(\)", r"\2", cause)
    return re.sub(r"got an unexpected keyword argument ('\w+')", r"has no argument \1", cause)


def _location(error: BaseException) -> str:
    """Return where an error was raised: the last line of this package, or else of any package."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [place for place in places if "segbundle" in Path(place[0]).parts]
    return f" ({Path((own or places)[-1][0]).name}, line {(own or places)[-1][1]})" if places else ""


def _shortened(text: str) -> str:
    """Return text shortened to a few lines, without secrets and hidden names.

    Long text keeps its beginning and its end (the advice).
    """
    text = _ADDRESS.sub("", masked(str(without_credentials(text))))
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        text = "\n".join([*lines[: _MOST_LINES - 1], f"... and {len(lines) - _MOST_LINES + 1} more lines"])
    if len(text) > _MOST_CHARACTERS:
        end = _MOST_CHARACTERS // 3
        text = f"{text[: _MOST_CHARACTERS - end - 5]} ... {text[-end:]}"
    return text


def last_line(error: BaseException) -> str:
    r"""Return the last line of an error message, usually the cause; the name of the exception if it has no message.

    Args:
        error: exception.

    Example:
        >>> last_line(ValueError("cannot read:\nbad header")), last_line(MemoryError())
        ('bad header', 'MemoryError')
    """
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
