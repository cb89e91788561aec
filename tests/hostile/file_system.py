"""Links, loops, pipes and files in the way; outputs that are inputs; foreign files in output folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile import right
from hostile.cases import ACCEPTED, EITHER, PARTIAL, REFUSED, Case, Place


def cases() -> Iterator[Case]:
    yield from _inputs()
    yield from _next_to_valid_scans()
    yield from _in_the_way()
    yield from _outputs()


def _socket(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(place)


_SPECIAL: dict[str, Callable[[Path], object]] = {
    "a broken link": lambda p: p.symlink_to("nowhere"), "a link to itself": lambda p: p.symlink_to(p.name), "a chain of broken links": lambda p: (p.symlink_to("one"), (p.parent / "one").symlink_to("two")),
    "a pipe": os.mkfifo, "a socket": _socket, "/dev/zero": lambda p: p.symlink_to("/dev/zero"), "/dev/null": lambda p: p.symlink_to("/dev/null"), "an empty file": lambda p: p.write_bytes(b""), "a folder": lambda p: p.mkdir(), "/proc/self/mem": lambda p: p.symlink_to("/proc/self/mem"),
    "/dev/tty": lambda p: p.symlink_to("/dev/tty"), "a link to a folder": lambda p: p.symlink_to("/etc"),
}  # fmt: skip


def _inputs() -> Iterator[Case]:
    for name, make in _SPECIAL.items():
        for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm"):

            def given(place: Place, make: Callable[[Path], object] = make, ending: str = ending) -> list[object]:
                make(place.folder / f"x{ending}")
                return place.predict(place.folder / f"x{ending}")

            if ending in (".nii", ".nrrd", ".dcm") or name in ("a pipe", "a broken link"):
                yield Case("special files", f"a scan is {name}, {ending}", given, REFUSED, (f"x{ending}",))
        for part in ("imagesTr", "labelsTr"):
            for command in ("check", "train", "evaluate"):

                def case(
                    place: Place, command: str = command, part: str = part, make: Callable[[Path], object] = make
                ) -> list[object]:
                    data = place.dataset()
                    (data / part / "case_1.nii").unlink()
                    make(data / part / "case_1.nii")
                    return place.check(data) if command == "check" else getattr(place, command)(data)

                yield Case("special files", f"{command}: {part[:-3]} is {name}", case, REFUSED, ("case_1",))


def _good(place: Place) -> Path:
    folder = place.folder / "scans"
    place.copied(place.material.scan, "scans/good.nii")
    return folder


def _next_to_valid_scans() -> Iterator[Case]:
    """Invalid files next to valid scans: only the invalid files fail."""
    for name, make in _SPECIAL.items():

        def next_to_valid(place: Place, make: Callable[[Path], object] = make) -> list[object]:
            folder = _good(place)
            make(folder / "bad.nii")
            return place.predict(folder)

        if name == "a folder" or name == "a link to a folder":  # an empty folder with the name of a scan
            yield Case("batch", f"{name} next to a valid scan", next_to_valid, EITHER, (), right.good_scan_done)
        else:
            yield Case("batch", f"{name} next to a valid scan", next_to_valid, PARTIAL, ("bad",), right.good_scan_done)
    from hostile.scans_nifti import INF, NAN, changed

    damages: dict[str, Callable[[bytes], bytes]] = {
        "text": lambda c: b"hello" * 99, "cut in the header": lambda c: c[:200], "cut in the voxels": lambda c: c[:3000], "no datatype": lambda c: changed(c, datatype=0), "an unknown datatype": lambda c: changed(c, datatype=9999), "color": lambda c: changed(c, datatype=128), "complex": lambda c: changed(c, datatype=32),
        "nine dimensions": lambda c: changed(c, dim0=9), "sizes of zero": lambda c: changed(c, dim2=0), "negative sizes": lambda c: changed(c, dim2=-5), "huge sizes": lambda c: changed(c, dim1=32767, dim2=32767, dim3=32767), "two volumes": lambda c: changed(c, dim0=4, dim3=8, dim4=2), "slope Inf": lambda c: changed(c, scl_slope=INF),
        "intercept NaN": lambda c: changed(c, scl_inter=NAN), "an affine of NaN": lambda c: changed(c, srow_x0=NAN), "a singular affine": lambda c: changed(c, srow_z2=0.0), "a negative offset": lambda c: changed(c, vox_offset=-352.0), "an offset of Inf": lambda c: changed(c, vox_offset=INF), "no magic": lambda c: changed(c, magic=b"abcd"),
        "pixdim 0 without an sform": lambda c: changed(c, sform_code=0, pixdim2=0.0),
    }  # fmt: skip
    for name, damage in damages.items():

        def batch(place: Place, damage: Callable[[bytes], bytes] = damage, first: bool = True) -> list[object]:
            folder = _good(place)
            (folder / ("bad.nii" if first else "zbad.nii")).write_bytes(damage(place.material.scan.read_bytes()))
            place.copied(place.material.other, "scans/other.nii")
            return place.predict(folder)

        done = lambda place: right.first(
            right.good_scan_done(place), right.scan_of(place, "other", place.material.other)
        )
        yield Case("batch", f"{name}, first of three", batch, PARTIAL, ("bad",), done)
        yield Case("batch", f"{name}, last of three", lambda p, b=batch: b(p, first=False), PARTIAL, ("zbad",), done)
        if name in ("text", "no datatype", "huge sizes", "slope Inf", "nine dimensions"):
            yield Case(
                "batch",
                f"{name}, first, resampled",
                lambda p, b=batch: [*b(p), "--spacing", "[1,1,1]"],
                PARTIAL,
                ("bad",),
                lambda p: (
                    None
                    if (p.output / "good_seg.nii.gz").exists() and (p.output / "other_seg.nii.gz").exists()
                    else "a good scan was not done"
                ),
            )

    def loop(place: Place) -> list[object]:
        folder = _good(place)
        (folder / "up").symlink_to("..")
        (folder / "self").symlink_to(".")
        return place.predict(folder)

    def loops(place: Place) -> list[object]:
        folder = _good(place)
        for letter in "abcdefgh":
            (folder / letter).symlink_to(".")
        return place.predict(folder)

    def deep(place: Place) -> list[object]:
        folder = _good(place)
        (folder / "/".join("d" * 200)).mkdir(parents=True)
        return place.predict(folder)

    def doubled(place: Place) -> list[object]:
        folder = _good(place)
        (folder / "again").symlink_to(folder / "good.nii")
        (folder / "twin").symlink_to(folder)
        return place.predict(folder)

    def hidden(place: Place) -> list[object]:
        folder = _good(place)
        place.copied(place.material.other, "scans/.hidden/other.nii")
        place.copied(place.material.other, "scans/._good.nii")
        place.file("scans/.DS_Store", bytes(90))
        return place.predict(folder)

    def one(place: Place) -> str | None:
        found = sorted(path.name for path in place.output.glob("*_seg.nii.gz"))
        return right.good_scan_done(place) or (None if found == ["good_seg.nii.gz"] else f"label maps are {found}")

    for name, build, reason in (
        ("a link to the parent and to itself", loop, "each real folder is searched once"), ("eight links to itself", loops, "each real folder is searched once"), ("200 folders deep", deep, "an empty folder contains no scan"),
        ("a scan and its folder linked again", doubled, "each real folder is searched once"), ("hidden files and folders", hidden, "hidden files are not scans"),
    ):  # fmt: skip
        yield Case("batch", name, build, ACCEPTED, (), one, reason)
    yield Case(
        "batch",
        "a missing scan given with a valid scan",
        lambda p: p.predict("nowhere.nii", p.material.scan),
        EITHER,
        (),
        None,
    )
    yield Case(
        "batch",
        "a broken link given with a valid scan",
        lambda p: ((p.folder / "bad.nii").symlink_to("no"), p.predict(p.folder / "bad.nii", p.material.scan))[1],
        EITHER,
        (),
    )


def _in_the_way() -> Iterator[Case]:
    """Files in the output folder that no run has written."""
    names = {
        "predict": ("good_seg.nii.gz", "predictions.json", "run.json", "report.html", "measurements.csv", "summary.json", "metrics.csv", "good_prob.nii", "notes.txt", ".partial-1-good_seg.nii.gz", "predictions.jsonl", "task.json", "last.pt"),
        "evaluate": ("case_0_seg.nii.gz", "metrics.csv", "summary.json", "report.html", "run.json", "predictions.json", "notes.txt", "task.json", "last.pt", "model.pt"),
        "train": ("model.pt", "last.pt", "metrics.csv", "summary.json", "task.json", "training_cases.csv", "run.json", "report.html", "tensorboard/mine", "cache/mine", "notes.txt"),
        "cross_validate": ("metrics.csv", "summary.json", "report.html", "run.json", "cross_validation.json", "cache/mine", "fold_0/mine", "fold_0/model.pt", "fold_0/last.pt", "fold_0/evaluation/metrics.csv", "fold_1/task.json", "notes.txt"),
    }  # fmt: skip
    harmless = ("notes.txt", "tensorboard/mine", "fold_0/mine", "cache/mine")
    for command, files in names.items():
        for file in files:
            for what in ("a file", "a folder", "a link"):

                def build(place: Place, command: str = command, file: str = file, what: str = what) -> list[object]:
                    path = place.output / file
                    path.parent.mkdir(parents=True)
                    if what == "a file":
                        path.write_text("mine")
                    elif what == "a folder":
                        path.mkdir()
                        (path / "mine").write_text("mine")
                    else:
                        path.symlink_to(place.file("elsewhere.txt", "mine"))
                    return place.predict(place.material.scan) if command == "predict" else getattr(place, command)()

                # files that do not block are kept; others are named before the work starts
                expect = (
                    EITHER
                    if file in harmless
                    or file.startswith(("good_prob", ".partial", "predictions.jsonl", "cache"))
                    or (
                        command != "predict"
                        and file
                        in ("run.json", "training_cases.csv", "report.html", "model.pt", "last.pt", "task.json")
                    )
                    else REFUSED
                )
                yield Case(
                    "in the way",
                    f"{command}: {file} is {what}",
                    build,
                    expect,
                    (Path(file).name + "|out",) if expect == REFUSED else (),
                )
    for name, again in {"predict": "predicted", "evaluate": "evaluated"}.items():

        def rerun(place: Place, name: str = name, again: str = again) -> list[object]:
            folder = place.copied(getattr(place.material, again), "out")
            place.may_change += list(folder.iterdir())
            (folder / "by_hand_seg.nii.gz").write_text("mine")
            (folder / "notes.txt").write_text("mine")
            return place.predict(place.material.scan) if name == "predict" else place.evaluate()

        yield Case("in the way", f"{name} again, with its files and a label map drawn by hand", rerun, EITHER)


def _outputs() -> Iterator[Case]:
    def file(place: Place) -> None:
        place.output.write_text("mine")

    def below(place: Place) -> None:
        place.output.write_text("mine")
        place.output = place.output / "x"

    def broken(place: Place) -> None:
        place.output.symlink_to("nowhere/at/all")

    def itself(place: Place) -> None:
        place.output.symlink_to("out")

    def pipe(place: Place) -> None:
        os.mkfifo(place.output)

    def null(place: Place) -> None:
        place.output = Path("/dev/null")

    def proc(place: Place) -> None:
        place.output = Path("/proc/out")

    def long(place: Place) -> None:
        place.output = place.folder / ("x" * 300)

    def longer(place: Place) -> None:
        place.output = place.folder / "/".join(["x" * 200] * 30)

    wrong: dict[str, Callable[[Place], None]] = {
        "a file": file, "below a file": below, "a broken link": broken, "a link to itself": itself, "a pipe": pipe, "/dev/null": null, "/proc": proc, "a name too long": long, "a path too long": longer,
    }  # fmt: skip
    for name, make in wrong.items():
        for command in ("train", "evaluate", "predict", "cross_validate", "samples", "report"):

            def build(place: Place, command: str = command, make: Callable[[Place], None] = make) -> list[object]:
                make(place)
                if command == "samples":
                    return ["samples", place.output, "--num_training", "1", "--num_test", "0"]
                if command == "report":
                    return ["report", place.material.evaluated, "--output", place.output / "x.html"]
                if command == "predict":
                    return place.predict(place.material.scan)
                return list(getattr(place, command)())

            yield Case("output folder", f"{command}: is {name}", build, EITHER if name == "a broken link" else REFUSED)

    def linked(place: Place) -> list[object]:
        (place.folder / "real").mkdir()
        (place.folder / "real" / "notes.txt").write_text("mine")
        place.output.symlink_to("real")
        place.output = place.folder / "real"
        return place.predict(place.material.scan)

    yield Case(
        "output folder",
        "a link to a folder",
        linked,
        ACCEPTED,
        (),
        right.good_scan_done,
        "a link to a folder is a folder",
    )

    def same(place: Place) -> list[object]:
        place.output = place.folder / "scans"
        place.copied(place.material.scan, "scans/good.nii")
        return place.predict(place.folder / "scans")

    yield Case("output folder", "the scans' own folder", same, EITHER, (), right.good_scan_done)

    def overwritten(place: Place) -> list[object]:
        place.output = place.folder / "scans"
        place.copied(place.material.scan, "scans/good.nii")
        place.copied(place.material.other, "scans/good_seg.nii.gz")
        return place.predict(place.folder / "scans" / "good.nii")

    yield Case(
        "output folder",
        "the scans' own folder, with a label map drawn by hand",
        overwritten,
        REFUSED,
        ("good_seg.nii.gz",),
    )

    def data(place: Place) -> list[object]:
        folder = place.dataset()
        place.output = folder / "labelsTr"
        return place.evaluate(folder)

    yield Case("output folder", "the dataset's labels", data, EITHER)

    def bundle(place: Place) -> list[object]:
        return [*place.train()[:-1], place.copied(Path(__file__).parents[2] / "bundle" / "configs", "out")]

    yield Case("output folder", "a folder of configurations", bundle, EITHER)
    for name in ("page", "data"):

        def page(place: Place, name: str = name) -> list[object]:
            run = place.copied(place.material.evaluated, "run")
            target = place.file("mine.html", "mine") if name == "page" else run / "metrics.csv"
            return ["report", run, "--output", target]

        yield Case(
            "output folder",
            f"report over a {name} of others",
            page,
            REFUSED,
            ("mine.html" if name == "page" else "metrics.csv",),
        )

    def markdown(place: Place) -> list[object]:
        return [
            "reproduce",
            "ignore_background",
            "--steps",
            "1",
            "--seeds",
            "[0]",
            "--test_pictures",
            "2",
            "--output",
            place.file("mine.md", "mine"),
        ]

    yield Case("output folder", "reproduce over a file of others", markdown, REFUSED, ("mine.md",))
