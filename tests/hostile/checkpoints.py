"""Checkpoints: invalid files and tensors, code in pickles, other networks; and task.json next to them."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile import right
from hostile.cases import ACCEPTED, CANARY, EITHER, REFUSED, Case, Place


class _Code:
    """Object that opens a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (CANARY, "w")


def state() -> dict[str, Any]:
    import torch

    return {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -0.5])}


def saved(content: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _with(key: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    changed = state()
    changed[key] = change(changed[key])
    return changed


def cases() -> Iterator[Case]:
    yield from _contents()
    yield from _files()
    yield from _tasks()
    yield from _resumed()


def _contents() -> Iterator[Case]:
    import numpy as np
    import torch

    nan, inf = float("nan"), float("inf")
    contents: dict[str, tuple[Callable[[], Any], str]] = {
        "all NaN": (lambda: {k: v * nan for k, v in state().items()}, REFUSED),
        "one NaN": (lambda: _with("bias", lambda v: torch.tensor([0.0, nan])), REFUSED),
        "one Inf": (lambda: _with("weight", lambda v: v * inf), REFUSED),
        "-Inf": (lambda: _with("bias", lambda v: torch.tensor([-inf, 0.0])), REFUSED),
        "1e39 as float64": (lambda: _with("bias", lambda v: torch.tensor([0.0, 1e39], dtype=torch.float64)), REFUSED),
        "complex": (lambda: _with("weight", lambda v: v.to(torch.complex64)), REFUSED),
        "integers": (lambda: _with("weight", lambda v: v.to(torch.int64)), REFUSED),
        "bytes": (lambda: _with("weight", lambda v: v.to(torch.uint8)), REFUSED),
        "booleans": (lambda: _with("weight", lambda v: v.bool()), REFUSED),
        "sparse": (lambda: _with("weight", lambda v: v.to_sparse()), REFUSED),
        "quantized": (lambda: _with("weight", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)), REFUSED),
        "on no device": (lambda: _with("weight", lambda v: v.to("meta")), REFUSED),
        "another shape": (lambda: _with("weight", lambda v: v.repeat(1, 3, 1, 1, 1)), REFUSED),
        "fewer dimensions": (lambda: _with("weight", lambda v: v.reshape(2, 1)), REFUSED),
        "empty tensors": (lambda: _with("weight", lambda v: v[:0]), REFUSED),
        "a scalar": (lambda: _with("bias", lambda v: torch.tensor(1.0)), REFUSED),
        "a layer missing": (lambda: {"weight": state()["weight"]}, REFUSED),
        "a layer too many": (lambda: {**state(), "extra": torch.zeros(1)}, REFUSED),
        "other names": (lambda: {f"net.{k}": v for k, v in state().items()}, REFUSED),
        "names that are numbers": (lambda: {3: state()["weight"], 4: state()["bias"]}, REFUSED),
        "names of None": (lambda: {None: state()["weight"]}, REFUSED),
        "lists": (lambda: {k: v.tolist() for k, v in state().items()}, REFUSED),
        "arrays": (lambda: {k: np.zeros(3) for k in state()}, REFUSED),
        "text": (lambda: {"weight": "heavy", "bias": "none"}, REFUSED),
        "null values": (lambda: {"weight": None, "bias": None}, REFUSED),
        "nested": (lambda: {"a": {"b": state()}}, REFUSED),
        "model twice": (lambda: {"model": {"model": state()}}, REFUSED),
        "model of a number": (lambda: {"model": 3}, REFUSED),
        "model of nothing": (lambda: {"model": {}}, REFUSED),
        "an empty mapping": (dict, REFUSED),
        "a list of states": (lambda: [state()], REFUSED),
        "a tensor": (lambda: state()["weight"], REFUSED),
        "a number": (lambda: 3, REFUSED),
        "None": (lambda: None, REFUSED),
        "text alone": (lambda: "weights", REFUSED),
        "a module": (lambda: torch.nn.Conv3d(1, 2, 1), REFUSED),
        "code as the whole": (_Code, REFUSED),
        "code as a value": (lambda: {**state(), "extra": _Code()}, REFUSED),
        "code as a key": (lambda: {**state(), (_Code(),): 1}, REFUSED),
        "code next to the model": (lambda: {"model": state(), "optimizer": _Code()}, REFUSED),
        "huge numbers": (lambda: _with("weight", lambda v: v * 3e38), EITHER),
        "float64": (lambda: {k: v.double() for k, v in state().items()}, ACCEPTED),
        "float16": (lambda: {k: v.half() for k, v in state().items()}, ACCEPTED),
        "bfloat16": (lambda: {k: v.bfloat16() for k, v in state().items()}, ACCEPTED),
        "as model": (lambda: {"model": state()}, ACCEPTED),
        "as state_dict": (lambda: {"state_dict": state()}, ACCEPTED),
        "as network, with others": (lambda: {"network": state(), "epoch": 3}, ACCEPTED),
        "parameters": (lambda: {k: torch.nn.Parameter(v) for k, v in state().items()}, ACCEPTED),
        "not contiguous": (lambda: _with("weight", lambda v: v.repeat(1, 1, 2, 1, 1)[:, :, ::2]), ACCEPTED),
    }  # fmt: skip
    for name, (make, expect) in contents.items():
        for command in ("predict", "evaluate") if expect == REFUSED else ("predict",):

            def build(place: Place, command: str = command, make: Callable[[], Any] = make) -> list[object]:
                model = place.file("bad.pt", saved(make()))
                return (
                    place.predict(place.material.scan, ckpt=model)
                    if command == "predict"
                    else place.evaluate(ckpt=model)
                )

            yield Case(
                "checkpoint", f"{command}: {name}", build, expect, ("bad.pt",) if expect == REFUSED else (),
                right.good_scan_done if expect == ACCEPTED else None, "contains the network's weights",
            )  # fmt: skip
        if name in ("all NaN", "complex", "code as a value", "another shape"):
            yield Case(
                "checkpoint", f"train: {name}",
                lambda p, m=make: [*p.train(), "--ckpt_path", p.file("bad.pt", saved(m()))], REFUSED, ("bad.pt",),
            )  # fmt: skip
            yield Case(
                "checkpoint", f"ensemble: {name}",
                lambda p, m=make: [*p.predict(p.material.scan), "--ckpt_path", p.file("bad.pt", saved(m()))],
                REFUSED, ("bad.pt",),
            )  # fmt: skip


def _files() -> Iterator[Case]:
    good = saved(state())

    def zipped(**files: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return file.getvalue()

    def scripted() -> bytes:
        import torch

        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Conv3d(1, 2, 1)), file)
        return file.getvalue()

    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"", "text": lambda: b"weights\n" * 90, "zeros": lambda: bytes(4000), "one byte": lambda: b"\x80",
        "a pickle": lambda: pickle.dumps({"weight": 3}), "a pickle of code": lambda: pickle.dumps(_Code()), "a zip of nothing": lambda: zipped(), "a zip of text": lambda: zipped(a=b"x"),
        "a zip with a pickle of code": lambda: zipped(**{"archive/data.pkl": pickle.dumps(_Code(), 2), "archive/version": b"3\n", "archive/byteorder": b"little"}),
        "a Git LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 8817\n", "HTML": lambda: b"<html>Not found</html>",
        "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(999), "safetensors": lambda: (64).to_bytes(8, "little") + b'{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}     ' + bytes(8), "a tar": lambda: b"x.pt".ljust(257, b"\0") + b"ustar" + bytes(900),
        "TorchScript": scripted, "random": lambda: os.urandom(0) + bytes(range(256)) * 9, "a changed byte": lambda: good[:300] + bytes([good[300] ^ 255]) + good[301:],
        **{f"cut at {end}": (lambda e=end: good[:e]) for end in (1, 4, 100, 500, -500, -100, -22, -1)},
    }  # fmt: skip
    for name, content in contents.items():
        either = name == "a changed byte"  # the changed byte may be padding
        yield Case(
            "checkpoint: the file", name,
            lambda p, c=content: p.predict(p.material.scan, ckpt=p.file("bad.pt", c())), EITHER if either else REFUSED,
            () if either else ("bad.pt",),
        )  # fmt: skip
    others: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None, "a folder": lambda path: path.mkdir(), "a dangling link": lambda path: path.symlink_to("no.pt"),
        "a link to itself": lambda path: path.symlink_to("bad.pt"), "a pipe": os.mkfifo, "/dev/zero": lambda path: path.symlink_to("/dev/zero"), "/dev/null": lambda path: path.symlink_to("/dev/null"),
    }  # fmt: skip
    for name, make in others.items():
        for command in ("predict", "evaluate"):

            def build(place: Place, command: str = command, make: Callable[[Path], object] = make) -> list[object]:
                path = place.folder / "bad.pt"
                make(path)
                return (
                    place.predict(place.material.scan, ckpt=path) if command == "predict" else place.evaluate(ckpt=path)
                )

            yield Case("checkpoint: the file", f"{command}: is {name}", build, REFUSED, ("bad.pt",))

    def of_folds(place: Place, change: Callable[[Path], object]) -> list[object]:
        folder = place.copied(place.material.validated, "folds")
        change(folder)
        return place.predict(place.material.scan, ckpt=folder)

    folds: dict[str, Callable[[Path], object]] = {
        "no models": lambda f: [path.unlink() for path in f.glob("fold_*/model.pt")], "one model empty": lambda f: (f / "fold_1/model.pt").write_bytes(b""),
        "one model of NaN": lambda f: (f / "fold_1/model.pt").write_bytes(saved({k: v * float("nan") for k, v in state().items()})), "one model of another shape": lambda f: (f / "fold_1/model.pt").write_bytes(saved({"weight": state()["bias"]})),
        "one model a dangling link": lambda f: ((f / "fold_1/model.pt").unlink(), (f / "fold_1/model.pt").symlink_to("no")), "one model of code": lambda f: (f / "fold_1/model.pt").write_bytes(saved(_Code())),
    }  # fmt: skip
    for name, change in folds.items():
        yield Case("checkpoint: folds", name, lambda p, c=change: of_folds(p, c), REFUSED, ("folds",))


def _tasks() -> Iterator[Case]:
    """task.json next to a checkpoint, with the settings of its training."""
    contents: dict[str, tuple[str | bytes, str]] = {
        "other classes": (json.dumps({"class_names": ["background", "dark"]}), REFUSED), "three classes": (json.dumps({"class_names": ["a", "b", "c"]}), REFUSED), "classes of text": (json.dumps({"class_names": "bright"}), REFUSED), "classes of null": (json.dumps({"class_names": None}), REFUSED),
        "classes of numbers": (json.dumps({"class_names": [0, 1]}), REFUSED), "classes of 3": (json.dumps({"class_names": 3}), REFUSED), "a list": ("[1, 2]", REFUSED), "a list of pairs": ('[["a", 1]]', REFUSED), "text": ('"x"', REFUSED), "a number": ("3", REFUSED), "null": ("null", REFUSED), "empty": ("", REFUSED),
        "cut short": ('{"class_names": ["ba', REFUSED), "NaN": ('{"class_names": NaN}', REFUSED), "Latin-1": ('{"class_names": ["h\xe9"]}'.encode("latin-1"), REFUSED), "deep": ("[" * 100000 + "]" * 100000, REFUSED), "bytes": (bytes(range(256)), REFUSED), "training_cases of 3": (json.dumps({"class_names": ["background", "bright"], "training_cases": 3}), REFUSED),
        "training_cases of numbers": (json.dumps({"class_names": ["background", "bright"], "training_cases": [1, 2]}), REFUSED), "an empty mapping": ("{}", EITHER),
    }  # fmt: skip
    for name, (content, expect) in contents.items():
        for command in ("predict", "evaluate"):
            only_there = name.startswith("training_cases") and command == "predict"

            def build(place: Place, command: str = command, content: str | bytes = content) -> list[object]:
                model = place.file("model/bad.pt", saved(state()))
                place.file("model/task.json", content)
                return (
                    place.predict(place.material.scan, ckpt=model)
                    if command == "predict"
                    else place.evaluate(ckpt=model)
                )

            yield Case(
                "task.json", f"{command}: {name}", build, EITHER if only_there else expect,
                ("task.json|bad.pt",) if expect == REFUSED and not only_there else (),
            )  # fmt: skip


def _resumed() -> Iterator[Case]:
    """Resumed trainings with one damaged file."""

    def damaged(place: Place, file: str, content: bytes | None, *options: object) -> list[object]:
        place.output.rmdir() if place.output.is_dir() else None
        folder = place.copied(place.material.trained, "out")
        place.may_change.append(folder)
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        return [*place.train(), "--max_epochs", "3", "--resume", *options]

    def last(**changes: Any) -> Callable[[Place], bytes]:
        def make(place: Place) -> bytes:
            import torch

            content = torch.load(place.material.trained / "last.pt", weights_only=True)
            return saved({key: value for key, value in {**content, **changes}.items() if value is not ...})

        return make

    contents: dict[str, bytes | Callable[[Place], bytes]] = {
        "empty": b"", "text": b"hello", "cut short": lambda p: (p.material.trained / "last.pt").read_bytes()[:-300], "code": saved(_Code()), "a state dict only": saved(state()), "a list": saved([1]), "a number": saved(3), "an empty mapping": saved({}),
        **{f"epoch {value!r}": last(epoch=value) for value in (None, -1, "x", 2.5, [1], ..., True)},
        **{f"{key} {value!r}": last(**{key: value}) for key in ("network", "average") for value in (None, 3, {}, [], ...)},
        **{f"optimizer {value!r}": last(optimizer=value) for value in (None, 3, {}, [], ...)},
        **{f"{key} of NaN": lambda p, k=key: last(**{k: {n: v * float("nan") for n, v in state().items()}})(p) for key in ("network", "average")},
    }  # fmt: skip
    for name, content in contents.items():
        yield Case(
            "last.pt", name, lambda p, c=content: damaged(p, "last.pt", c if isinstance(c, bytes) else c(p)), REFUSED,
            ("last.pt",),
        )  # fmt: skip
    yield Case("last.pt", "missing", lambda p: damaged(p, "last.pt", None), EITHER)
    for name, raw in {
        "empty": b"",
        "a list": b"[1]",
        "text": b"hello",
        "null": b"null",
        "other classes": b'{"class_names": ["a", "b"]}',
        "fold of text": b'{"class_names": ["background", "bright"], "fold": "x"}',
    }.items():
        yield Case("last.pt", f"task.json {name}", lambda p, r=raw: damaged(p, "task.json", r), EITHER)
    for option, value in {
        "--fold": "1",
        "--spacing": "[2,2,2]",
        "--class_names": "[background,dark]",
        "--axcodes": "LPS",
        "--intensity": "{method: zscore}",
    }.items():
        yield Case(
            "last.pt",
            f"resumed with another {option}",
            lambda p, o=option, v=value: [
                *damaged(p, "task.json", (p.material.trained / "task.json").read_bytes()),
                o,
                v,
            ],
            REFUSED,
            ("last.pt|dataset.json|" + option.strip("-"),),
        )
    yield Case(
        "last.pt",
        "trained again without --resume",
        lambda p: [*p.train()[:-1], p.copied(p.material.trained, "out")],
        REFUSED,
        ("out",),
    )
