"""Folders of finished runs with one file damaged, for report, view, resuming and cross-validation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile.cases import ACCEPTED, EITHER, REFUSED, RUN, Case, Place

_JSON: dict[str, bytes] = {
    "empty": b"", "cut short": b'{"a": [1, 2', "text": b"hello", "null": b"null", "a number": b"3", "a text": b'"x"', "a list": b"[1, 2]", "a list of lists": b"[[1], [2]]", "a mapping": b'{"a": 1}', "an empty mapping": b"{}",
    "an empty list": b"[]", "NaN": b'{"a": NaN}', "Latin-1": '{"a": "h\xe9"}'.encode("latin-1"), "bytes": bytes(range(256)), "deep": b"[" * 100000 + b"]" * 100000, "true": b"true", "a huge number": b'{"cases": ' + b"9" * 6000 + b"}",
}  # fmt: skip
_CSV: dict[str, bytes] = {
    "empty": b"", "header only": b"case,class,status,dice\n", "text": b"hello\n", "bytes": bytes(range(256)), "Latin-1": "case,class\nh\xe9,b\n".encode("latin-1"), "UTF-16": "case,class\na,b\n".encode("utf-16"), "NUL": b"case,class\0\na,b\n",
    "semicolons": b"case;class;status;dice\na;b;scored;1\n", "a quote not closed": b'case,class\n"a,b\n', "a huge field": b"case,class\n" + b"a" * 200_000 + b",b\n",
}  # fmt: skip


def cases() -> Iterator[Case]:
    yield from _damaged()
    yield from _keys()
    yield from _rows()
    yield from _gone()
    yield from _resumed()
    yield from _resumed_evaluation()
    yield from _cross_validation()


def _command(place: Place, command: str, run: str, change: Callable[[Path], object]) -> list[object]:
    folder = place.copied(getattr(place.material, run), "out")
    place.may_change += [folder / "report.html", folder / "measurements.csv"]
    change(folder)
    return [command, folder, *(["--no-browser"] if command == "view" else [])]


def _write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


_FILES = {
    "evaluated": ("metrics.csv", "summary.json", "run.json", "predictions.json"),
    "predicted": ("run.json", "predictions.json"),
    "trained": ("metrics.csv", "summary.json", "run.json", "training_cases.csv"),
    "validated": ("metrics.csv", "summary.json", "run.json", "fold_0/evaluation/run.json", "fold_0/evaluation/summary.json", "fold_0/evaluation/predictions.json"),
}  # fmt: skip
_LESS = ("empty", "cut short", "a list", "NaN", "a mapping", "null")


def _damaged() -> Iterator[Case]:
    for run, files in _FILES.items():
        for file in files:
            contents = _CSV if file.endswith(".csv") else _JSON
            for name, content in contents.items():
                full = run == "evaluated" or (run == "predicted" and file == "predictions.json")
                if not full and name not in (*_LESS, "text", "bytes"):
                    continue
                for command in ("report", "view") if full and name in _LESS and run != "trained" else ("report",):
                    told = Path(file).name
                    # a page can be written without these files
                    empty_but_valid = name in ("an empty mapping", "an empty list", "a mapping", "header only")
                    optional = file.endswith("training_cases.csv") or (run in ("trained",) and file == "run.json")
                    expect = EITHER if optional or empty_but_valid else REFUSED
                    yield Case(
                        "run's folder", f"{command} of {run}: {file} is {name}",
                        lambda p, c=command, r=run, f=file, raw=content: _command(p, c, r, _write(f, raw)), expect,
                        (told + "|out",) if expect == REFUSED else (),
                    )  # fmt: skip


def _changed_json(file: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return apply


_VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "a number": -3,
    "a list": [1],
    "a mapping": {"a": 1},
    "true": True,
}


def _set(*keys: Any, value: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> None:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value

    return change


def _keys() -> Iterator[Case]:
    places: dict[str, list[tuple[str, tuple[Any, ...]]]] = {
        "evaluated": [
            ("summary.json", ("cases",)), ("summary.json", ("mean_dice",)), ("summary.json", ("classes",)), ("summary.json", ("classes", "bright")), ("summary.json", ("classes", "bright", "dice_mean")), ("summary.json", ("classes", "bright", "dice_ci95")),
            ("run.json", ("cases",)), ("run.json", ("cases", "case_0")), ("run.json", ("cases", "case_0", "image")), ("run.json", ("cases", "case_0", "reference")), ("run.json", ("config",)), ("run.json", ("config", "class_names")), ("run.json", ("config", "ckpt_path")), ("run.json", ("command",)),
            ("run.json", ("trained_on",)), ("predictions.json", (0,)), ("predictions.json", (0, "case")), ("predictions.json", (0, "status")),
            ("predictions.json", (0, "scores")), ("predictions.json", (0, "scores", "classes")), ("predictions.json", (0, "scores", "classes", 1, "dice")),
        ],
        "predicted": [
            ("run.json", ("config",)), ("run.json", ("config", "class_names")), ("run.json", ("config", "intensity")), ("predictions.json", (0,)), ("predictions.json", (0, "case")), ("predictions.json", (0, "image")), ("predictions.json", (0, "prediction")), ("predictions.json", (0, "status")),
        ],
    }  # fmt: skip
    fine = {
        ("run.json", ("config",)): {"null"}, ("run.json", ("cases",)): {"null"}, ("run.json", ("trained_on",)): {"null"}, ("run.json", ("command",)): {"text", "null"}, ("run.json", ("config", "ckpt_path")): {"text", "null", "a list"}, ("run.json", ("cases", "case_0", "image")): {"text"}, ("run.json", ("cases", "case_0", "reference")): {"text", "null"},
        ("summary.json", ("cases",)): {"a number"}, ("summary.json", ("mean_dice",)): {"null", "a number"}, ("summary.json", ("classes", "bright", "dice_mean")): {"null", "a number"}, ("predictions.json", (0, "case")): {"text"}, ("predictions.json", (0, "status")): {"text"}, ("predictions.json", (0, "image")): {"text"}, ("predictions.json", (0, "prediction")): {"text"},
        ("predictions.json", (0, "scores")): {"null"},
        ("run.json", ("config", "intensity")): {"null", "a mapping", "text", "a number", "a list", "true"},
    }  # fmt: skip
    for run, found in places.items():
        for file, keys in found:
            for name, value in {**_VALUES, "missing": ...}.items():
                doubtful = (
                    name in fine.get((file, keys), ())
                    or name == "missing"
                    or (run == "evaluated" and file == "run.json" and keys[0] in ("config", "command", "trained_on"))
                )
                if (
                    run == "predicted"
                    and name == "missing"
                    and keys in (("config",), ("config", "class_names"), (0, "case"), (0, "status"))
                ):
                    doubtful = False
                where = ".".join(map(str, keys))
                yield Case(
                    "run's folder: keys", f"{run}: {file} {where} is {name}",
                    lambda p, r=run, f=file, k=keys, v=value: _command(p, "report", r, _changed_json(f, _set(*k, value=v))),
                    EITHER if doubtful else REFUSED, () if doubtful else (file + "|out",),
                )  # fmt: skip


def _rows() -> Iterator[Case]:
    """Damaged rows of metrics.csv."""

    def edited(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
        def apply(folder: Path) -> None:
            path = folder / "metrics.csv"
            path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

        return apply

    def cell(column: str, value: str) -> Callable[[list[str]], list[str]]:
        def change(lines: list[str]) -> list[str]:
            index = lines[0].split(",").index(column)
            cells = lines[1].split(",")
            cells[index] = value
            return [lines[0], ",".join(cells), *lines[2:]]

        return change

    def without(column: str) -> Callable[[list[str]], list[str]]:
        def change(lines: list[str]) -> list[str]:
            index = lines[0].split(",").index(column)
            return [",".join(c for i, c in enumerate(line.split(",")) if i != index) for line in lines]

        return change

    changes: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
        **{f"{column} missing": (without(column), REFUSED) for column in ("case", "class", "status", "dice")},
        **{f"dice {value!r}": (cell("dice", value), REFUSED) for value in ("x", "nan", "inf", "-1", "2", "1,5", "0x1")},
        **{f"status {value!r}": (cell("status", value), REFUSED) for value in ("", "x", "SCORED", "1")},
        **{f"class {value!r}": (cell("class", value), REFUSED) for value in ("", "dark", "background")},
        "case empty": (cell("case", ""), EITHER),
        "a formula as case": (cell("case", "=cmd|' /C calc'!A0"), EITHER),
        "a script as case": (cell("case", "<script>alert(1)</script>"), EITHER),
        "a row twice": (lambda lines: [*lines, lines[1]], REFUSED),
        "a row short": (lambda lines: [lines[0], lines[1].rpartition(",")[0], *lines[2:]], REFUSED),
        "a row long": (lambda lines: [lines[0], lines[1] + ",x,y,z", *lines[2:]], REFUSED),
        "no rows": (lambda lines: lines[:1], EITHER),
        "a row left out": (lambda lines: [lines[0], *lines[2:]], EITHER),
        "columns in another order": (lambda lines: [",".join(reversed(line.split(","))) for line in lines], ACCEPTED),
        "one more column": (lambda lines: [lines[0] + ",note", *(line + ",x" for line in lines[1:])], ACCEPTED),
    }  # fmt: skip
    for name, (change, expect) in changes.items():
        yield Case(
            "run's folder: rows", name, lambda p, c=change: _command(p, "report", "evaluated", edited(c)), expect,
            ("metrics.csv|out",) if expect == REFUSED else (), None, "columns are found by their names",
        )  # fmt: skip


def _gone() -> Iterator[Case]:
    def each(pattern: str, do: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda folder: [do(path) for path in sorted(folder.glob(pattern))]

    def replaced(pattern: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
        def one(path: Path) -> None:
            path.unlink()
            make(path)

        return each(pattern, one)

    for run in ("evaluated", "predicted", "validated"):
        maps = "fold_0/evaluation/*_seg.nii.gz" if run == "validated" else "*_seg.nii.gz"
        changes: dict[str, tuple[Callable[[Path], object], str]] = {
            "label maps missing": (each(maps, Path.unlink), EITHER), "label maps empty": (each(maps, lambda p: p.write_bytes(b"")), REFUSED), "label maps cut short": (each(maps, lambda p: p.write_bytes(p.read_bytes()[:60])), REFUSED),
            "label maps of text": (each(maps, lambda p: p.write_bytes(b"hello" * 99)), REFUSED), "label maps that are folders": (replaced(maps, lambda p: p.mkdir()), REFUSED), "label maps that are pipes": (replaced(maps, os.mkfifo), REFUSED), "label maps that are dangling links": (replaced(maps, lambda p: p.symlink_to("no")), EITHER),
            "run.json missing": (each("run.json", Path.unlink), REFUSED if run == "predicted" else EITHER), "run.json a folder": (replaced("run.json", lambda p: p.mkdir()), REFUSED), "run.json a pipe": (replaced("run.json", os.mkfifo), REFUSED),
            "summary.json missing": (each("summary.json", Path.unlink), EITHER if run == "predicted" else REFUSED), "report.html a folder": (replaced("report.html", lambda p: p.mkdir()), REFUSED), "everything missing": (lambda f: [p.unlink() for p in f.rglob("*") if p.is_file()], REFUSED),
        }  # fmt: skip
        for name, (change, expect) in changes.items():
            if run == "predicted" and name.startswith(("summary", "report.html")):
                continue
            for command in ("report", "view"):
                # the page or viewer names the unreadable file
                shown = name.startswith("label maps") or (command == "view" and name == "report.html a folder")
                yield Case(
                    "run's folder: files", f"{command} of {run}: {name}",
                    lambda p, c=command, r=run, ch=change: _command(p, c, r, ch), EITHER if shown else expect,
                    ("out",) if expect == REFUSED and not shown else (),
                )  # fmt: skip


def _resumed() -> Iterator[Case]:
    """Resumed predictions with damaged records: an error, or a new prediction."""

    def build(place: Place, content: bytes) -> list[object]:
        folder = place.copied(place.material.predicted, "out")
        place.may_change.append(folder)
        (folder / "predictions.json").write_bytes(content)
        return [*place.predict(place.material.scan, place.material.other), "--resume"]

    for name, content in _JSON.items():
        empty = name == "an empty list"
        yield Case(
            "predictions.json resumed", name, lambda p, c=content: build(p, c), EITHER if empty else REFUSED,
            () if empty else ("predictions.json",), None,
        )  # fmt: skip

    def changed(place: Place, key: str, value: Any) -> list[object]:
        records = json.loads((place.material.predicted / "predictions.json").read_text())
        if value is ...:
            del records[0][key]
        else:
            records[0][key] = value
        return build(place, json.dumps(records).encode())

    from hostile import right

    for key in ("case", "status", "prediction", "settings", "input", "image", "error"):
        for name, value in {**_VALUES, "missing": ..., "code": f"${RUN}", "a path of others": "/etc/passwd"}.items():
            yield Case(
                "predictions.json resumed", f"{key} is {name}", lambda p, k=key, v=value: changed(p, k, v), EITHER, (),
                right.good_scan_done,
            )  # fmt: skip


def _resumed_evaluation() -> Iterator[Case]:
    """Resumed evaluations with damaged records: an error, or new scores."""

    def build(place: Place, keys: tuple[Any, ...], value: Any) -> list[object]:
        folder = place.copied(place.material.evaluated, "out")
        place.may_change.append(folder)
        _changed_json("predictions.json", _set(0, *keys, value=value))(folder)
        return [*place.evaluate(), "--resume"]

    def right(place: Place) -> str | None:
        found, expected = ((folder / "metrics.csv").read_bytes() for folder in (place.output, place.material.evaluated))
        return None if found == expected else "metrics.csv differs from an uninterrupted evaluation"

    places: list[tuple[Any, ...]] = [
        ("scores",), ("scores", "voxel_ml"), ("scores", "classes"), ("scores", "classes", 1), ("scores", "classes", 1, "status"), ("scores", "classes", 1, "dice"), ("settings",), ("input",),
    ]  # fmt: skip
    for keys in places:
        for name, value in {**_VALUES, "missing": ...}.items():
            yield Case(
                "evaluation resumed", f"{'.'.join(map(str, keys))} is {name}",
                lambda p, k=keys, v=value: build(p, k, v), EITHER, (), right,
            )  # fmt: skip


def _cross_validation() -> Iterator[Case]:
    """Resumed cross-validations with a damaged file."""

    def build(place: Place, file: str, content: bytes | None, unfinished: bool) -> list[object]:
        folder = place.copied(place.material.validated, "out")
        place.may_change.append(folder)
        if unfinished:  # the last fold is not scored
            for path in (folder / "fold_1" / "evaluation").iterdir():
                path.unlink()
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        return place.cross_validate()

    for file in ("cross_validation.json", "fold_0/evaluation/metrics.csv", "fold_0/evaluation/summary.json", "fold_0/evaluation/run.json", "fold_1/last.pt", "fold_1/model.pt"):  # fmt: skip
        contents = (
            _CSV
            if file.endswith(".csv")
            else _JSON
            if file.endswith(".json")
            else {n: _JSON[n] for n in ("empty", "text")}
        )
        for name in (*_LESS, "text", "bytes", "header only"):
            if name not in contents:
                continue
            unfinished = file.startswith("fold_1")
            # scoring again replaces damaged files of a fold
            again = file.startswith("fold_0") or file == "fold_1/model.pt"
            yield Case(
                "cross-validation resumed", f"{file} is {name}",
                lambda p, f=file, c=contents[name], u=unfinished: build(p, f, c, u), EITHER if again else REFUSED,
                () if again else (Path(file).name,),
            )  # fmt: skip
    for key, value in {
        "num_folds": "3",
        "max_epochs": "5",
        "spacing": "[1,1,1]",
        "seed": "9",
        "batch_size": "2",
    }.items():
        yield Case(
            "cross-validation resumed", f"another {key}",
            lambda p, k=key, v=value: [*build(p, "summary.json", None, False), f"--{k}", v], REFUSED, (key,),
        )  # fmt: skip
