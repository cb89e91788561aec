"""Names of files, cases and classes: code, quotes, line breaks, bytes that are not UTF-8, long names; links by name."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from hostile import right
from hostile.cases import ACCEPTED, CANARY, EITHER, PARTIAL, REFUSED, RUN, Case, Place
from hostile.material import TASK, volume, write_nifti

NAMES: dict[str, str] = {
    "an expression": f"${RUN}", "an import": f"$__import__('os').system('touch {CANARY}')", "a reference": "@class_names", "an unknown reference": "@nothing", "a macro": "%max_epochs", "a hash": "a#b", "hashes": "#a##b#", "colons": "a::b",
    "an expression inside": f"x${RUN}", "a reference inside": "x@class_names", "a list": "['a', 'b']", "a mapping": "{'a': 1}", "a tuple": "(1, 2)", "a number": "3", "a fraction": "1.5", "None": "None", "true": "true", "a call": RUN, "NaN": "nan",
    "a space": "a b", "spaces around": " a ", "a tab": "a\tb", "a newline": "a\nb", "a return": "a\rb", "an escape": "a\x1b[31mred", "a bell": "a\x07b", "a quote": 'a"b', "an apostrophe": "it's", "a backslash": "a\\b", "a backtick": f"`touch {CANARY}`", "a shell": f"$(touch {CANARY})", "a semicolon": f"a;touch {CANARY}",
    "a pipe sign": f"a|touch {CANARY}", "an ampersand": "a&b", "a star": "a*b", "a question mark": "a?b", "brackets": "[ab]", "braces": "{a,b}", "a tilde": "~", "a percent format": "%s%d%n", "a brace format": "{0}{case}", "a template": "{{ 7*7 }}", "a Jinja call": "{% for a in [] %}", "a script": "<script>alert(1)<", "an entity": "&lt;b&gt;",
    "a formula": "=1+1", "a formula by plus": "+1", "a formula by at": "@SUM(1)", "a formula by tab": "\t=1", "a comma": "a,b", "a leading dot in the middle": "a.b.c", "two dots": "a..b", "a dash": "a-b", "unicode": "üöä→日本語", "right to left": "a\u202eb", "combining": "e\u0301", "an emoji": "🧠", "zero width": "a\u200bb",
    "long": "x" * 240, "long in UTF-8": "ü" * 110, "_seg": "a_seg", "_prob": "a_prob", "_0000": "a_0000", "_0001": "a_0001", "predictions": "predictions", "metrics": "metrics", "case": "case", "upper case": "GOOD",
}  # fmt: skip
_BYTES = {
    "Latin-1": b"h\xe9llo",
    "lone continuation": b"a\x80b",
    "0xFF": b"\xff\xfe",
    "cut UTF-8": "日".encode()[:2],
    "Shift-JIS": "脳".encode("shift_jis"),
}


def cases() -> Iterator[Case]:
    yield from _scans()
    yield from _not_text()
    yield from _cases_of_datasets()
    yield from _classes()
    yield from _folders()


def _scans() -> Iterator[Case]:
    for name, stem in NAMES.items():
        for ending in (".nii", ".nii.gz"):
            if len(os.fsencode(stem + ending)) > 250:
                continue

            def build(place: Place, stem: str = stem, ending: str = ending) -> list[object]:
                (place.folder / "scans").mkdir()
                nib.save(nib.load(place.material.scan), place.folder / "scans" / f"{stem}{ending}")
                if ending == ".nii":  # the file, and (below) its folder
                    return place.predict(place.folder / "scans" / f"{stem}{ending}")
                return place.predict(place.folder / "scans")

            # in folders, endings identify label maps, and four digits a channel
            special = ending == ".nii.gz" and stem in ("a_seg", "a_prob", "a_0000", "a_0001")
            yield Case(
                "names of scans", f"{name}, {'in a folder' if ending == '.nii.gz' else 'given'}", build,
                EITHER if special or len(stem) > 200 else ACCEPTED, (),
                None if special or len(stem) > 100 else _labeled(stem), "every name that the file system allows is valid",
            )  # fmt: skip

        def relative(place: Place, stem: str = stem) -> list[object]:
            nib.save(nib.load(place.material.scan), place.folder / f"{stem}.nii")
            return place.predict(f"{stem}.nii")

        if name in (
            "an expression",
            "a reference",
            "a hash",
            "colons",
            "a formula",
            "a list",
            "a macro",
            "a number",
            "an import",
            "a tilde",
        ):
            yield Case(
                "names of scans",
                f"{name}, from the working directory",
                relative,
                ACCEPTED,
                (),
                _labeled(stem),
                "every name that the file system allows is valid",
            )


def _labeled(stem: str) -> Callable[[Place], str | None]:
    def judge(place: Place) -> str | None:
        found = right.label_map(place.output / f"{stem}_seg.nii.gz", _mask(place.material.scan))
        records = json.loads((place.output / "predictions.json").read_text())
        named = [record["case"] for record in records] == [stem]
        return found or (None if named else f"the case is named {[record['case'] for record in records]}")

    return judge


def _mask(scan: Path) -> np.ndarray:
    return np.asarray(nib.load(scan).get_fdata()) > 500


def _not_text() -> Iterator[Case]:
    """Only scans with names that are not UTF-8 fail."""
    for name, stem in _BYTES.items():

        def build(place: Place, stem: bytes = stem, alone: bool = False) -> list[object]:
            folder = place.folder / "scans"
            folder.mkdir()
            content = place.material.scan.read_bytes()
            with open(os.fsencode(folder) + b"/" + stem + b".nii", "wb") as file:
                file.write(content)
            if not alone:
                (folder / "good.nii").write_bytes(content)
            return place.predict(folder)

        yield Case(
            "names that are not UTF-8",
            f"{name}, next to a valid scan",
            build,
            PARTIAL,
            ("UTF-8",),
            right.good_scan_done,
        )
        yield Case(
            "names that are not UTF-8", f"{name}, alone", lambda p, s=stem: build(p, s, True), REFUSED, ("UTF-8",)
        )

        def given(place: Place, stem: bytes = stem) -> list[object]:
            path = os.fsencode(place.folder) + b"/" + stem + b".nii"
            with open(path, "wb") as file:
                file.write(place.material.scan.read_bytes())
            return place.predict(path, place.material.scan)

        yield Case(
            "names that are not UTF-8",
            f"{name}, given with a valid scan",
            given,
            PARTIAL,
            ("UTF-8",),
            right.good_scan_done,
        )

        def folder_of(place: Place, stem: bytes = stem) -> list[object]:
            folder = os.fsencode(place.folder) + b"/" + stem
            os.mkdir(folder)
            with open(folder + b"/good.nii", "wb") as file:
                file.write(place.material.scan.read_bytes())
            return place.predict(folder)

        yield Case("names that are not UTF-8", f"{name}, name of a folder", folder_of, EITHER)
        for command in ("check", "train"):

            def dataset(place: Place, command: str = command, stem: bytes = stem) -> list[object]:
                data = place.dataset()
                (data / "dataset.json").unlink()
                for part in ("imagesTr", "labelsTr"):
                    os.rename(data / part / "case_1.nii", os.fsencode(data / part) + b"/" + stem + b".nii")
                return place.check(data) if command == "check" else place.train(data)

            yield Case("names that are not UTF-8", f"{command}: {name}", dataset, REFUSED, ("UTF-8",))


def _cases_of_datasets() -> Iterator[Case]:
    """Cases with special names are used in training and scored, and metrics.csv contains the exact names."""
    for name in (
        "an expression",
        "a reference",
        "a hash",
        "colons",
        "a newline",
        "a quote",
        "a formula",
        "a formula by plus",
        "a formula by tab",
        "a comma",
        "unicode",
        "a script",
        "a template",
        "a brace format",
        "a percent format",
        "spaces around",
        "an escape",
        "a number",
        "None",
        "a leading dot in the middle",
    ):
        stem = NAMES[name]
        for command in ("train", "evaluate"):

            def build(place: Place, command: str = command, stem: str = stem) -> list[object]:
                data = place.dataset()
                (data / "dataset.json").unlink()
                for part in ("imagesTr", "labelsTr"):
                    (data / part / "case_1.nii").rename(data / part / f"{stem}.nii")
                return list(getattr(place, command)(data))

            def scored(place: Place, stem: str = stem) -> str | None:
                with (place.output / "metrics.csv").open(encoding="utf-8-sig", newline="") as file:
                    found = {row["case"] for row in csv.DictReader(file)}
                page = place.output / "report.html"
                if page.exists() and "<script>alert(1)<" in page.read_text(encoding="utf-8"):
                    return "the page contains the name as markup"
                formulas = [case for case in found if case.startswith(("=", "+", "-", "@", "\t=", "\r"))]
                if formulas:
                    return f"metrics.csv contains {formulas[0]!r}, a formula for spreadsheets"
                plain = {case.lstrip("'") for case in found}
                return (
                    None
                    if stem in plain or stem.strip() in {c.strip() for c in plain}
                    else f"metrics.csv names {sorted(found)}"
                )

            yield Case(
                "names of cases", f"{command}: {name}", build, ACCEPTED, (), scored if command == "evaluate" else None,
                "every name that the file system allows is valid",
            )  # fmt: skip


def _classes() -> Iterator[Case]:
    """Class names in the task and the dataset are data."""
    for name, text in NAMES.items():
        if name in (
            "long",
            "long in UTF-8",
            "_seg",
            "_prob",
            "_0000",
            "_0001",
            "predictions",
            "metrics",
            "case",
            "upper case",
            "None",
            "true",
            "a number",
            "a fraction",
            "NaN",
        ):
            continue
        code = text.startswith(("$", "@", "%")) and name != "a formula by at"

        def build(place: Place, text: str = text) -> list[object]:
            data = place.dataset()
            description = json.loads((data / "dataset.json").read_text())
            description["labels"]["1"] = text
            (data / "dataset.json").write_text(json.dumps(description))
            lines = TASK.replace("[background, bright]", json.dumps(["background", text]))
            return place.evaluate(data, config=place.file("task.yaml", lines))

        # in YAML files, $ begins an expression, % a macro, and @ a reference
        yield Case(
            "names of classes", name, build, REFUSED if code else EITHER, ("task.yaml|class_names|dataset.json",) if code else (),
            None if code else _class_scored(text),
        )  # fmt: skip


def _class_scored(text: str) -> Callable[[Place], str | None]:
    def judge(place: Place) -> str | None:
        with (place.output / "metrics.csv").open(encoding="utf-8-sig", newline="") as file:
            found = {row["class"] for row in csv.DictReader(file)}
        if any(name.startswith(("=", "+", "-", "@")) for name in found):
            return f"metrics.csv contains {found}, a formula for spreadsheets"
        return None if {name.lstrip("'").strip() for name in found} == {text.strip()} else f"metrics.csv names {found}"

    return judge


def _folders() -> Iterator[Case]:
    """The same names for the folder of the dataset, the checkpoint, the task YAML and the output folder."""
    chosen = (
        "an expression",
        "a reference",
        "a macro",
        "a hash",
        "colons",
        "a space",
        "a newline",
        "a quote",
        "an apostrophe",
        "a list",
        "a mapping",
        "a number",
        "a formula",
        "unicode",
        "a star",
        "brackets",
        "braces",
        "a tilde",
        "a brace format",
        "a percent format",
        "a backslash",
        "None",
        "true",
    )
    for name in chosen:
        text = NAMES[name]

        def dataset(place: Place, text: str = text) -> list[object]:
            place.dataset(text)
            return place.train(text)

        def model(place: Place, text: str = text) -> list[object]:
            place.copied(place.material.checkpoint, text)
            return place.predict(place.material.scan, ckpt=text)

        def task(place: Place, text: str = text) -> list[object]:
            return place.predict(place.material.scan, config=place.copied(place.material.task, text + ".yaml").name)

        def output(place: Place, text: str = text) -> list[object]:
            place.output = place.folder / text
            return [*place.evaluate()[:-1], text]

        def cached(place: Place, text: str = text) -> list[object]:
            place.may_change.append(place.folder / text)
            return [*place.train(), "--cache_dir", text]

        def reported(place: Place, text: str = text) -> list[object]:
            run = place.copied(place.material.evaluated, text)
            place.output = run / "report.html"
            place.may_change.append(run / "report.html")
            return ["report", text]

        good = right.good_scan_done
        for what, build, judge in (
            ("dataset", dataset, None), ("checkpoint", model, good), ("task YAML", task, good), ("output", output, None), ("cache", cached, None), ("run", reported, None),
        ):  # fmt: skip
            doubtful = what == "cache" and text in ("None", "true", "3", "['a', 'b']", "{'a': 1}")
            yield Case(
                "names of folders", f"{what}: {name}", build, EITHER if doubtful else ACCEPTED, (), judge,
                "every name that the file system allows is valid",
            )  # fmt: skip
    for name, word in {"a dash first": "-x", "two dashes first": "--x", "only a dash": "-"}.items():

        def dashed(place: Place, word: str = word) -> list[object]:
            nib.save(nib.load(place.material.scan), place.folder / f"{word}.nii")
            return place.predict(f"./{word}.nii")

        yield Case(
            "names of folders", f"scan: {name}, with ./", dashed, ACCEPTED, (), _labeled(word), "./ makes it a path"
        )

        def bare(place: Place, word: str = word) -> list[object]:
            nib.save(nib.load(place.material.scan), place.folder / f"{word}.nii")
            return place.predict(f"{word}.nii")

        yield Case("names of folders", f"scan: {name}, without ./", bare, REFUSED)

    def equal(place: Place) -> list[object]:
        write_nifti(place.folder / "scans" / "a" / "x.nii", volume(1))
        write_nifti(place.folder / "scans" / "a_x.nii", volume(2))
        write_nifti(place.folder / "scans" / "b" / "x.nii", volume(3))
        return place.predict(place.folder / "scans")

    yield Case(
        "names of folders",
        "two scans whose names become one",
        equal,
        EITHER,
        (),
        lambda p: None if len(list(p.output.glob("*_seg.nii.gz"))) == 3 else "not every scan has its own label map",
    )
