"""Inspection of checkpoints, arrays and other pickles for imports, without unpickling."""

from __future__ import annotations

import codecs
import functools
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.audit.archives import read_archive
from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of

SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".ts")
_MAX_PICKLE_BYTES = 256_000_000
_ARRAY = b"\x93NUMPY"
_PICKLE = re.compile(rb"\x80[\x00-\x05]|\(*c[\w.]+\n[\w.]+\n")
_TENSORS = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor"
    r"|nested_tensor|meta_tensor_no_storage)"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|torch\.[A-Z][A-Za-z0-9]*Storage|torch\.storage\.(TypedStorage|UntypedStorage)"
    r"|torch\.(Size|Tensor|device|bool|quint8|qint8|qint32|u?int\d+|b?float\d+|float8_\w+|complex\d+)"
    r"|torch\.nn\.parameter\.Parameter"
)
_SCRIPTS = re.compile(r"__torch__\..*|torch\.jit\._pickle\.(build_\w+list|build_tensor_from_id|restore_type_tag)")
_MARK = object()
_MAX_UNKNOWN_BYTES = 64_000_000
"""Maximum number of bytes read from a file of unknown type to check whether it is a pickle."""
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_IMPORTED = re.compile(r"[^\W\d][\w.]* [^\W\d][\w.]*")
_IMPORTING = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_ENDING = frozenset({"BUILD", "INST", "NEWOBJ", "NEWOBJ_EX", "OBJ", "REDUCE", "STOP"})


def is_pickle(head: bytes) -> bool:
    """Return whether a file that begins with these bytes may be a pickle.

    Args:
        head: first bytes of the file.

    Example:
        >>> import pickle
        >>> is_pickle(pickle.dumps([1])), is_pickle(b"text")
        (True, False)
    """
    return _PICKLE.match(head) is not None


def inspect_data_file(path: Path, name: str, head: bytes) -> Iterator[Finding]:
    """Yield a finding for each pickle in a checkpoint, pickle file or array file that would import code when loaded.

    Names that only rebuild tensors, or the scripts of a TorchScript archive, are not findings. Pickles and arrays that
    cannot be inspected (damaged, empty, too large), and checkpoints that `torch.load` refuses with
    `weights_only=True`, are findings too.

    Args:
        path: path of the file.
        name: file name in findings.
        head: first bytes of the file; 256 are enough.

    Raises:
        OSError: a file that is not a zip file cannot be read.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "data.pkl"
        ...     _ = path.write_bytes(pickle.dumps(print))
        ...     print(*inspect_data_file(path, "data.pkl", path.read_bytes()[:256]))
        data.pkl: (file): pickle that imports more than tensors: builtins.print
    """
    if head.startswith(b"PK\x03\x04"):
        yield from _zip_findings(path, name)
        return
    if head.startswith(_ARRAY) or path.suffix.lower() == ".npy":
        with path.open("rb") as stream:
            yield from _array_findings(stream, name, WHOLE_FILE)
        if head.startswith(_ARRAY):
            return
    elif path.suffix.lower() == ".npz":
        yield Finding(name, WHOLE_FILE, "cannot be read as a zip file of arrays", "")
    if is_pickle(head) or path.suffix.lower() in SUFFIXES or _runs_as_pickle(path):
        yield from _plain_findings(path, name)


def is_checkpoint(archive: zipfile.ZipFile) -> bool:
    """Return whether a zip file is a checkpoint of PyTorch or an archive of NumPy, rather than a bundle.

    A checkpoint contains an entry `*/data.pkl`. An archive of NumPy contains `.npy` files only; an empty zip file
    counts as one.

    Args:
        archive: opened zip file.

    Example:
        >>> archive = zipfile.ZipFile(io.BytesIO(), "w")
        >>> archive.writestr("model/data.pkl", b"")
        >>> is_checkpoint(archive)
        True
    """
    names = archive.namelist()
    return any(name.endswith("/data.pkl") for name in names) or all(name.endswith(".npy") for name in names)


def _zip_findings(path: Path, name: str) -> Iterator[Finding]:
    plain = False

    def read() -> Iterator[Finding]:
        nonlocal plain
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            scripted = any(entry.endswith("/constants.pkl") for entry in names)
            plain = not scripted and any(entry.endswith("/data.pkl") for entry in names)
            for entry in archive.infolist():
                inspect_entry = functools.partial(_entry_findings, archive, entry, name, scripted)
                yield from read_archive(name, entry.filename, inspect_entry, "cannot be read as an entry of a zip file")

    found = read_archive(name, WHOLE_FILE, read)
    yield from found
    if plain and not found:
        yield from _refused_by_torch(path, name)


def _entry_findings(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, scripted: bool) -> Iterator[Finding]:
    suffix = Path(entry.filename).suffix.lower()
    if suffix not in (".npy", ".pkl", ".pickle", ".debug_pkl"):
        return
    if entry.file_size > _MAX_PICKLE_BYTES and suffix != ".npy":
        yield Finding(name, entry.filename, "pickle that is too large to read", f"{entry.file_size:,} bytes")
        return
    with archive.open(entry) as stream:
        if suffix == ".npy":
            yield from _array_findings(stream, name, entry.filename)
        else:
            yield from _pickle_findings(io.BytesIO(stream.read()), name, entry.filename, scripted, must_end=True)


def _plain_findings(path: Path, name: str) -> Iterator[Finding]:
    """Yield the findings of a file that is not a zip file: a pickle, or several pickles as in old PyTorch versions."""
    known = path.suffix.lower() in SUFFIXES
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            yield Finding(name, WHOLE_FILE, "is empty", "")
            return
        first = True
        while first or is_pickle(_peeked(stream)):
            ends = first and known
            found = list(_pickle_findings(stream, name, WHOLE_FILE, scripted=False, must_end=ends))
            yield from found
            if found:
                return
            first = False
    if path.suffix.lower() in (".pt", ".pth", ".ckpt"):
        yield from _refused_by_torch(path, name)


def _pickle_findings(stream: IO[bytes], name: str, key: str, scripted: bool, must_end: bool) -> Iterator[Finding]:
    names: set[str] = set()
    problem = ""
    try:
        for imported in _imports_of(stream):
            names.add(imported)
    except Exception as error:  # pickletools raises various exceptions for malformed pickles
        problem = str(error) or type(error).__name__
    unknown = sorted(
        imported
        for imported in names
        if not (_TENSORS.fullmatch(imported) or (scripted and _SCRIPTS.fullmatch(imported)))
    )
    if unknown:
        yield Finding(name, key, "pickle that imports more than tensors", excerpt_of(", ".join(unknown)))
    elif problem and must_end:
        yield Finding(name, key, "cannot be read as a pickle", excerpt_of(problem))


def _imports_of(stream: IO[bytes]) -> Iterator[str]:
    """Yield the dotted names that a pickle imports, by simulating its stack without creating objects."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument in _opcodes(stream):
        code, place = opcode.name, argument if isinstance(argument, int) else 0
        if code == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            yield f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else "(computed)"
            stack.append(None)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[place] = stack[-1]
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[place])
        elif code == "DUP":
            stack.append(stack[-1])
        else:
            if code in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif code.startswith("EXT"):
                yield "(registered extension)"
            _pop(stack, opcode)
            for pushed in opcode.stack_after:
                text = argument if isinstance(argument, str) and code not in ("GLOBAL", "INST", "PERSID") else None
                stack.append(_MARK if pushed is pickletools.markobject else text)


def _opcodes(stream: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield the opcodes of a pickle and their arguments.

    Text lines are not parsed: `pickletools.genops` refuses some that Python's unpickler accepts, such as `I0x10`.
    """
    while True:
        char = stream.read(1)
        opcode = _OPCODES.get(char.decode("latin-1"))
        if opcode is None:
            raise ValueError(f"contains the invalid opcode {char!r}" if char else "ends without the opcode STOP")
        yield opcode, _argument(opcode, stream)
        if opcode.name == "STOP":
            return


def _argument(opcode: pickletools.OpcodeInfo, stream: IO[bytes]) -> Any:
    if opcode.arg is None:
        return None
    if opcode.arg.n != pickletools.UP_TO_NEWLINE:
        return opcode.arg.reader(stream)
    lines = [stream.readline() for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1)]
    if not all(line.endswith(b"\n") for line in lines):
        raise ValueError("ends within a line")
    line = b" ".join(line.removesuffix(b"\n") for line in lines)
    if opcode.name in ("GET", "PUT"):
        return int(line)
    if opcode.name == "UNICODE":
        return codecs.decode(line, "raw-unicode-escape")
    if opcode.name == "STRING":
        return bytes(codecs.escape_decode(line.strip()[1:-1])[0]).decode("latin-1")
    return line.decode("utf-8", "replace")


def _runs_as_pickle(path: Path) -> bool:
    """Return whether a file that does not look like a pickle would import names if it were loaded as a pickle."""
    with path.open("rb") as stream:
        imports = False
        try:
            for opcode, argument in _opcodes(io.BufferedReader(io.BytesIO(stream.read(_MAX_UNKNOWN_BYTES)))):
                if opcode.name in ("GLOBAL", "INST") and not _IMPORTED.fullmatch(argument):
                    return False  # Python cannot import such a name
                imports = imports or opcode.name in _IMPORTING
                if imports and opcode.name in _ENDING:
                    return True
        except Exception:  # crafted files cause various exceptions
            return False
    return False


def _pop(stack: list[Any], opcode: pickletools.OpcodeInfo) -> None:
    before = opcode.stack_before
    if pickletools.markobject in before:
        while stack.pop() is not _MARK:
            pass
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        stack.pop()


def _array_findings(stream: IO[bytes], name: str, key: str) -> Iterator[Finding]:
    from numpy.lib import format as arrays

    try:
        version = arrays.read_magic(stream)
        read = arrays.read_array_header_1_0 if version == (1, 0) else arrays.read_array_header_2_0
        _, _, dtype = read(stream)
    except (ValueError, OSError, SyntaxError, RecursionError, MemoryError) as problem:
        yield Finding(name, key, "cannot be read as an array", excerpt_of(str(problem)))
        return
    if dtype.hasobject:
        yield Finding(name, key, "array of pickled Python objects", excerpt_of(str(dtype)))


def _refused_by_torch(path: Path, name: str) -> Iterator[Finding]:
    """Yield a finding if PyTorch cannot read a checkpoint with `weights_only=True`."""
    with fast_imports():
        import torch

    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip and (unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(str(path))):
            yield Finding(name, WHOLE_FILE, "checkpoint that contains more than tensors", excerpt_of(", ".join(unsafe)))
            return
        torch.load(path, map_location="meta", weights_only=True, mmap=is_zip)
    except Exception as problem:  # crafted files cause various exceptions
        reason = str(problem).partition("\n")[0]
        yield Finding(name, WHOLE_FILE, "cannot be read as a checkpoint of tensors", excerpt_of(reason))


def _peeked(stream: IO[bytes]) -> bytes:
    place = stream.tell()
    head = stream.read(256)
    stream.seek(place)
    return head
