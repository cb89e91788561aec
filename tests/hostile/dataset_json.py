"""dataset.json: wrong types and list entries for every key, names, folds, and damaged files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hostile.cases import ACCEPTED, EITHER, REFUSED, RUN, Case, Place
from hostile.material import CASES

_ENTRY = {"image": "./imagesTr/case_1.nii", "label": "./labelsTr/case_1.nii"}
_LABELS = {"0": "background", "1": "bright"}
_WRONG: dict[str, Any] = {
    "null": None, "true": True, "a number": 3, "a fraction": 0.5, "text": "x", "empty text": "", "an empty list": [],
    "a list of numbers": [1, 2], "a list of null": [None], "a list of lists": [[1]], "an empty mapping": {},
    "a mapping": {"a": 1}, "a mapping of lists": {"a": [1]}, "code": f"${RUN}", "a huge number": 10**30,
}  # fmt: skip


def described(**changes: Any) -> dict[str, Any]:
    content = {
        "name": "bright", "labels": _LABELS,
        "training": [{"image": f"./imagesTr/{n}.nii", "label": f"./labelsTr/{n}.nii"} for n in CASES], **changes,
    }  # fmt: skip
    return {key: value for key, value in content.items() if value is not ...}


def entries(index: int, **changes: Any) -> list[dict[str, Any]]:
    """Return the training list with one changed entry; `...` removes a key."""
    training: list[dict[str, Any]] = described()["training"]
    training[index] = {key: value for key, value in {**training[index], **changes}.items() if value is not ...}
    return training


def with_json(content: Any, command: str = "check", *options: object) -> Callable[[Place], list[object]]:
    def build(place: Place) -> list[object]:
        data = place.dataset()
        raw = content if isinstance(content, (bytes, str)) else json.dumps(content)
        (data / "dataset.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
        return [*(place.check(data) if command == "check" else getattr(place, command)(data)), *options]

    return build


def cases() -> Iterator[Case]:
    yield from _keys()
    yield from _entries()
    yield from _labels()
    yield from _sections()
    yield from _files()
    yield from _folds()


def _keys() -> Iterator[Case]:
    """Top-level keys of the file."""
    fine = {
        "labels": {"null", "an empty mapping", "an empty list"},
        "training": {"null"},
        "test": {"null", "an empty list"},
        "channel_names": {*_WRONG},  # not used if the lists name the files
        "modality": {*_WRONG},
        "file_ending": {*_WRONG},
    }
    ignored = ("name", "description", "licence", "tensorImageSize", "numTraining", "numTest", "reference", "release")
    for key, without in fine.items():
        for name, value in _WRONG.items():
            for command in ("check", "train") if key in ("labels", "training") else ("check",):
                expect = EITHER if name in without else REFUSED
                yield Case(
                    "dataset.json", f"{command}: {key} is {name}", with_json(described(**{key: value}), command), expect,
                    ("dataset.json|" + key,) if expect == REFUSED else (),
                )  # fmt: skip
    for key in ignored:
        for name in ("null", "a list of lists", "code"):
            yield Case(
                "dataset.json", f"{key} is {name}", with_json(described(**{key: _WRONG[name]})), ACCEPTED, (), None,
                "this key is not used",
            )  # fmt: skip
    for name, content in {
        "a list": [described()],
        "text": '"dataset"',
        "a number": 3,
        "null": None,
        "true": True,
    }.items():
        for command in ("check", "train", "evaluate", "cross_validate"):
            yield Case(
                "dataset.json",
                f"{command}: the whole is {name}",
                with_json(json.dumps(content) if not isinstance(content, str) else content, command),
                REFUSED,
                ("dataset.json",),
            )


def _entries() -> Iterator[Case]:
    for key in ("image", "label", "annotated"):
        for name, value in _WRONG.items():
            harmless = (value is None and key != "image") or (key == "label" and name in ("empty text",))
            yield Case(
                "dataset.json: an entry", f"{key} is {name}", with_json(described(training=entries(1, **{key: value}))),
                EITHER if harmless or (key == "annotated" and name == "an empty list") else REFUSED,
                () if harmless or (key == "annotated" and name == "an empty list") else ("dataset.json|" + key + "|case_1",),
            )  # fmt: skip
    for name, value in _WRONG.items():
        training = entries(1)
        training[1] = value
        for command in ("check", "train"):
            yield Case(
                "dataset.json: an entry",
                f"{command}: is {name}",
                with_json(described(training=training), command),
                REFUSED,
                ("dataset.json|training",),
            )
    paths = {
        "missing file": "./imagesTr/nowhere.nii", "a folder": "./imagesTr", "the dataset": ".", "nothing": "./", "absolute and missing": "/nowhere/x.nii",
        "another drive": "C:\\scans\\x.nii", "an address": "https://example.org/x.nii.gz", "a file address": "file:///etc/passwd", "home": "~/x.nii", "a variable": "$HOME/x.nii",
        "out of the folder": "../../../../etc/passwd", "NUL": "./imagesTr/case_1.nii\0", "a newline": "./imagesTr/case\n_1.nii", "very long": "x" * 5000, "a device": "/dev/zero", "/dev/null": "/dev/null",
        "a label map": "./labelsTr/case_1.nii", "text": "./dataset.json", "a surrogate": "./imagesTr/\ud800.nii", "a pattern": "./imagesTr/*.nii", "code": f"${RUN}", "a macro": "%x::y", "a reference": "@x",
    }  # fmt: skip
    for name, path in paths.items():
        for key in ("image", "label"):
            fits = name == "a label map" and key == "label"
            if fits:
                continue
            either = name == "a label map"  # an image with two values is valid
            yield Case(
                "dataset.json: an entry", f"{key} names {name}", with_json(described(training=entries(1, **{key: path}))),
                EITHER if either else REFUSED, (),
            )  # fmt: skip
    others: dict[str, tuple[Any, str, str]] = {
        "no image": (entries(1, image=...), REFUSED, "image"),
        "no label": (entries(1, label=...), EITHER, ""),
        "an unknown key": (entries(1, weight=3), EITHER, ""),
        "anotated": (entries(1, anotated=["bright"]), REFUSED, "anotated"),
        "Image": ([*described()["training"][:3], {"Image": "x", "label": "y"}], REFUSED, "image"),
        "annotated by number": (entries(1, annotated=[1]), REFUSED, "annotated"),
        "annotated by an unknown name": (entries(1, annotated=["dark"]), REFUSED, "dark"),
        "annotated by a name twice": (entries(1, annotated=["bright", "bright"]), EITHER, ""),
        "annotated as text": (entries(1, annotated="bright"), REFUSED, "annotated"),
        "annotated as a mapping": (entries(1, annotated={"bright": True}), REFUSED, "annotated"),
        "labeled, not annotated": (entries(1, annotated=[]), REFUSED, "case_1"),
        "one entry twice": ([*described()["training"], described()["training"][0]], REFUSED, "case_0"),
        "one image with two label maps": ([*described()["training"], {**described()["training"][0], "label": "./labelsTr/case_1.nii"}], REFUSED, "case_0"),
        "one label map for two images": (entries(1, label="./labelsTr/case_0.nii"), REFUSED, "case_"),
        "a list of two channels of one case": (entries(1, image=["./imagesTr/case_1.nii", "./imagesTr/case_2.nii"]), REFUSED, "case_1|channel"),
        "an empty list of channels": (entries(1, image=[]), REFUSED, "image"),
        "channels of nulls": (entries(1, image=[None]), REFUSED, "image"),
        "a path alone": ([*described()["training"], "./imagesTr/case_1.nii"], REFUSED, "case_1"),
        "an empty path alone": ([*described()["training"], ""], REFUSED, "training"),
        "an empty mapping": ([*described()["training"], {}], REFUSED, "image|training"),
        "a deep list": (json.loads("[" * 400 + "]" * 400), REFUSED, "training"),
        "a fold": (entries(1, fold=1), EITHER, ""),
        "a fold of text": (entries(1, fold="x"), REFUSED, "fold"),
        "a negative fold": (entries(1, fold=-1), REFUSED, "fold"),
        "a fold of NaN": (entries(1, fold=0.5), REFUSED, "fold"),
        "10,000 entries that are missing": ([{"image": f"./i/{i}.nii", "label": f"./l/{i}.nii"} for i in range(10000)], REFUSED, ".nii"),
    }  # fmt: skip
    for name, (training, expect, told) in others.items():
        many = name.startswith("10,000")
        for command in ("train",) if many else ("check", "train"):
            yield Case(
                "dataset.json: an entry", f"{command}: {name}", with_json(described(training=training), command), expect,
                (told,) if expect == REFUSED else (),
            )  # fmt: skip


def _labels() -> Iterator[Case]:
    labels: dict[str, tuple[Any, str, str]] = {
        "a list of names": (["background", "bright"], EITHER, ""),
        "a list of three names": (["background", "bright", "dark"], REFUSED, "labels|dark"),
        "names of other classes": ({"0": "background", "1": "dark"}, REFUSED, "dark"),
        "in another order": ({"0": "bright", "1": "background"}, REFUSED, "labels"),
        "three classes": ({"0": "background", "1": "bright", "2": "dark"}, REFUSED, "dark"),
        "only the background": ({"0": "background"}, REFUSED, "labels"),
        "with a gap": ({"0": "background", "2": "bright"}, REFUSED, "labels|0, 2"),
        "from 1 on": ({"1": "bright"}, REFUSED, "labels"),
        "negative": ({"-1": "background", "1": "bright"}, REFUSED, "labels"),
        "huge": ({"0": "background", "99999999999999999999": "bright"}, REFUSED, "labels"),
        "values twice": ({"background": 0, "bright": 0}, REFUSED, "labels"),
        "names twice": ({"0": "bright", "1": "bright"}, REFUSED, "labels|bright"),
        "null names": ({"0": None, "1": None}, REFUSED, "labels"),
        "names that are numbers": ({"0": 0, "1": 1}, REFUSED, "labels"),
        "names that are lists": ({"0": ["background"], "1": ["bright"]}, REFUSED, "labels"),
        "values of text": ({"background": "zero", "bright": "one"}, REFUSED, "labels"),
        "values that are fractions": ({"background": 0, "bright": 1.5}, REFUSED, "labels"),
        "values that are true": ({"background": False, "bright": True}, REFUSED, "labels"),
        "values that are null": ({"background": None, "bright": None}, REFUSED, "labels"),
        "empty names": ({"0": "", "1": ""}, REFUSED, "labels"),
        "Arabic digits": ({"٠": "background", "١": "bright"}, EITHER, ""),
        "superscript digits": ({"²": "background", "³": "bright"}, REFUSED, "labels"),
        "ignore twice": ({"0": "background", "1": "bright", "2": "ignore", "3": "Ignore"}, REFUSED, "ignore"),
        "ignore as 0": ({"0": "ignore", "1": "bright"}, REFUSED, "labels|ignore"),
        "ignore in the middle": ({"0": "background", "1": "ignore", "2": "bright"}, EITHER, ""),
        "ignore as a list": ({"background": 0, "bright": 1, "ignore": [2]}, REFUSED, "labels|ignore"),
        "regions that overlap nothing": ({"background": 0, "bright": [1, 2]}, EITHER, ""),
        "regions of text": ({"background": 0, "bright": ["a"]}, REFUSED, "labels"),
        "regions of nothing": ({"background": 0, "bright": []}, REFUSED, "labels"),
        "code": ({"0": "background", "1": f"${RUN}"}, REFUSED, "labels"),
        "upper case": ({"0": "Background", "1": "BRIGHT"}, ACCEPTED, ""),
        "nnU-Net's way": ({"background": 0, "bright": 1}, ACCEPTED, ""),
        "leading zeros": ({"00": "background", "01": "bright"}, EITHER, ""),
        "spaces": ({" 0 ": "background", " 1 ": "bright"}, EITHER, ""),
        "a million": ({str(i): f"c{i}" for i in range(100000)}, REFUSED, "labels"),
    }  # fmt: skip
    for name, (value, expect, told) in labels.items():
        for command in ("check", "train", "evaluate") if expect == REFUSED and len(value) < 9 else ("check",):
            yield Case(
                "dataset.json: labels", f"{command}: {name}", with_json(described(labels=value), command), expect,
                (told,) if expect == REFUSED else (), None, "means the same as Decathlon's",
            )  # fmt: skip


def _sections() -> Iterator[Case]:
    for key in ("validation", "test", "testing"):
        for name in ("text", "a number", "a mapping", "a list of numbers", "a list of null", "a list of lists"):
            yield Case(
                "dataset.json", f"{key} is {name} in training", with_json(described(**{key: _WRONG[name]}), "train"),
                REFUSED if key == "validation" else EITHER, (key,) if key == "validation" else (),
            )  # fmt: skip
    missing = [{"image": "./imagesTs/nowhere.nii", "label": "./labelsTs/nowhere.nii"}]
    yield Case(
        "dataset.json",
        "validation of missing files",
        with_json(described(validation=missing), "train"),
        REFUSED,
        ("nowhere",),
    )
    yield Case(
        "dataset.json",
        "validation of a case of the training",
        with_json(described(validation=described()["training"][:1]), "train"),
        REFUSED,
        ("case_0",),
    )
    yield Case(
        "dataset.json", "test of missing files, checked", with_json(described(test=missing)), REFUSED, ("nowhere",)
    )
    yield Case(
        "dataset.json",
        "test of missing files, evaluated",
        with_json(described(test=missing), "evaluate", "--data_list_key", "test"),
        REFUSED,
        ("nowhere",),
    )
    for key in ("__class__", "labels", "name", "test#0", "", "training.0", "$x", "numTraining"):
        yield Case(
            "dataset.json",
            f"data_list_key {key!r}",
            with_json(described(), "evaluate", "--data_list_key", key),
            REFUSED,
            ("data_list_key|" + (key or "list"),),
        )
    for name, value in {
        "v2's mapping": {"a": {"images": ["imagesTr/case_0.nii"], "label": "labelsTr/case_0.nii"}},
        "text": "x",
        "a list": [1],
        "a mapping of numbers": {"a": 3},
        "a mapping of nothing": {"a": {}},
    }.items():
        yield Case(
            "dataset.json",
            f"dataset is {name}",
            with_json(described(training=..., dataset=value)),
            EITHER if name in ("v2's mapping", "text") else REFUSED,  # some programs write names as text
            () if name in ("v2's mapping", "text") else ("dataset",),
        )


def _files() -> Iterator[Case]:
    good = json.dumps(described())
    contents: dict[str, tuple[bytes | str, str]] = {
        "empty": ("", REFUSED), "spaces": ("  \n", REFUSED), "cut short": (good[:90], REFUSED), "without its end": (good[:-1], REFUSED), "more after it": (good + "}", REFUSED), "two": (good + good, REFUSED),
        "comments": ("// hello\n" + good, REFUSED), "a trailing comma": (good[:-1] + ",}", REFUSED), "single quotes": (good.replace('"', "'"), REFUSED), "Python": (repr(described()), REFUSED), "YAML": ("labels:\n  0: background\n", REFUSED),
        "NaN": (good[:-1] + ', "x": NaN}', REFUSED), "Infinity": (good[:-1] + ', "x": Infinity}', REFUSED), "-Infinity": (good[:-1] + ', "x": -Infinity}', REFUSED), "1e999": (good[:-1] + ', "x": 1e999}', EITHER),
        "a huge integer": (good[:-1] + ', "x": ' + "9" * 10000 + "}", EITHER), "deep": ('{"x": ' + "[" * 100000 + "]" * 100000 + "}", REFUSED), "deep mappings": ('{"x":' * 50000 + "1" + "}" * 50000, REFUSED),
        "Latin-1": (good.replace("bright", "h\xe9ll").encode("latin-1"), REFUSED), "UTF-16": (good.encode("utf-16"), EITHER), "UTF-32": (good.encode("utf-32"), EITHER), "UTF-7": (good.encode("utf-7").replace(b'"', b"+ACI-"), REFUSED), "bytes": (bytes(range(256)), REFUSED),
        "zeros": (bytes(900), REFUSED), "NUL in it": (good.replace("bright", "bri\0ght", 1), REFUSED), "a lone surrogate": (good.replace("bright", "\\ud800", 1), REFUSED), "HTML": ("<html></html>", REFUSED), "gzip": (__import__("gzip").compress(good.encode(), mtime=0), REFUSED),
        "a key twice": (good[:-1] + ', "labels": {"0": "background", "1": "dark"}}', REFUSED), "10 MB of spaces": (good + " " * 10**7, EITHER),
        "a byte order mark": (b"\xef\xbb\xbf" + good.encode(), ACCEPTED), "Windows' line ends": (json.dumps(described(), indent=1).replace("\n", "\r\n"), ACCEPTED), "backslashes": (good.replace("./imagesTr/", ".\\\\imagesTr\\\\").replace("./labelsTr/", ".\\\\labelsTr\\\\"), ACCEPTED),
        "escapes": (good.replace("bright", "\\u0062right"), ACCEPTED),
    }  # fmt: skip
    for name, (content, expect) in contents.items():
        for command in ("check", "train") if expect == REFUSED else ("check",):
            yield Case(
                "dataset.json: the file", f"{command}: {name}", with_json(content, command), expect,
                ("dataset.json|dark",) if expect == REFUSED else (), None, "other programs write such files",
            )  # fmt: skip

    def made(change: Callable[[Any], object], command: str) -> Callable[[Place], list[object]]:
        def build(place: Place) -> list[object]:
            data = place.dataset()
            (data / "dataset.json").unlink()
            change(data / "dataset.json")
            return place.check(data) if command == "check" else getattr(place, command)(data)

        return build

    others: dict[str, Callable[[Any], object]] = {
        "a folder": lambda path: path.mkdir(), "a dangling link": lambda path: path.symlink_to("nowhere.json"),
        "a link to itself": lambda path: path.symlink_to("dataset.json"), "a pipe": os.mkfifo,
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"), "/dev/null": lambda path: path.symlink_to("/dev/null"),
    }  # fmt: skip
    for name, change in others.items():
        for command in ("check", "train", "evaluate"):
            yield Case(
                "dataset.json: the file", f"{command}: is {name}", made(change, command), REFUSED, ("dataset.json",)
            )

    def predicting(content: str) -> Callable[[Place], list[object]]:
        def build(place: Place) -> list[object]:
            data = place.dataset()
            (data / "dataset.json").write_text(content)
            return place.predict(data)

        return build

    for name, content in {
        "cut short": good[:90],
        "a list": "[1]",
        "test of numbers": json.dumps(described(test=[1, 2])),
        "test of missing files": json.dumps(described(test=["./imagesTs/no.nii"])),
    }.items():
        yield Case("dataset.json: the file", f"predict: {name}", predicting(content), REFUSED, ("dataset.json|no.nii",))


def _folds() -> Iterator[Case]:
    """nnU-Net's splits_final.json."""
    good = [{"train": [*CASES[:2]], "val": [*CASES[2:]]}, {"train": [*CASES[2:]], "val": [*CASES[:2]]}]
    contents: dict[str, tuple[str, str]] = {
        "as it should be": (json.dumps(good), EITHER), "text": ('"x"', REFUSED), "empty": ("", REFUSED), "cut short": (json.dumps(good)[:30], REFUSED), "a mapping": ('{"train": []}', REFUSED), "an empty list": ("[]", REFUSED),
        "no val": (json.dumps([{"train": [*CASES]}]), REFUSED), "no train": (json.dumps([{"val": [*CASES]}]), REFUSED), "numbers": (json.dumps([{"train": [1], "val": [2]}] * 2), REFUSED), "unknown cases": (json.dumps([{"train": ["a"], "val": ["b"]}] * 2), REFUSED),
        "one case on both sides": (json.dumps([{"train": [*CASES], "val": [*CASES[:2]]}] * 2), REFUSED), "a case left out": (json.dumps([{"train": ["case_0"], "val": ["case_1"]}] * 2), EITHER), "an empty fold": (json.dumps([{"train": [*CASES], "val": []}] * 2), REFUSED),
        "null": ("null", REFUSED), "NaN": ("[NaN]", REFUSED), "deep": ("[" * 100000 + "]" * 100000, REFUSED), "lists for mappings": (json.dumps([[[*CASES[:2]], [*CASES[2:]]]] * 2), REFUSED),
        "text for lists": (json.dumps([{"train": "case_0", "val": "case_1"}] * 2), REFUSED),
    }  # fmt: skip
    for name, (content, expect) in contents.items():

        def build(place: Place, command: str, content: str = content) -> list[object]:
            data = place.dataset()
            (data / "splits_final.json").write_text(content)
            return list(getattr(place, command)(data))

        for command in ("train",) if expect == EITHER else ("train", "cross_validate"):
            yield Case(
                "splits_final.json", f"{command}: {name}", lambda p, b=build, c=command: b(p, c), expect,
                ("splits_final.json",) if expect == REFUSED else (),
            )  # fmt: skip
