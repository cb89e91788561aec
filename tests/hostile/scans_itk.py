"""MetaImage, NRRD, Analyze and MGH files: headers with one wrong line, data files that are missing, short or elsewhere."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np

from hostile import right
from hostile.cases import ACCEPTED, EITHER, REFUSED, Case, Place
from hostile.material import AFFINE, SHAPE, SPACING, volume

VOXELS = volume(100)
RAW = VOXELS.tobytes(order="F")
LPS = np.diag([-1.0, -1, 1, 1]) @ AFFINE
_META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
    "TransformMatrix": " ".join(str(v) for v in (LPS[:3, :3] / SPACING).T.ravel()),
    "Offset": " ".join(map(str, LPS[:3, 3])), "ElementSpacing": " ".join(map(str, SPACING)),
    "DimSize": " ".join(map(str, SHAPE)), "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL",
}  # fmt: skip
_NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": " ".join(map(str, SHAPE)),
    "space directions": " ".join(f"({','.join(map(str, row))})" for row in LPS[:3, :3].T), "kinds": "domain domain domain",
    "endian": "little", "encoding": "raw", "space origin": f"({','.join(map(str, LPS[:3, 3]))})",
}  # fmt: skip


def meta(data: bytes = RAW, **changes: str | None) -> bytes:
    lines = {**_META, **changes}
    last = lines.pop("ElementDataFile")
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    return text.encode() + (b"" if last is None else f"ElementDataFile = {last}\n".encode()) + data


def nrrd(data: bytes = RAW, magic: str = "NRRD0004", **changes: str | None) -> bytes:
    lines = {**_NRRD, **{key.replace("_", " "): value for key, value in changes.items()}}
    return (magic + "\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None) + "\n").encode() + data


def mask(name: str) -> Callable[[Place], str | None]:
    return lambda place: right.label_map(place.output / f"{name}_seg.nii.gz", VOXELS > 500, AFFINE)


def _case(
    kind: str, name: str, files: dict[str, bytes], scan: str, expect: str, reason: str = "", told: str = ""
) -> Case:
    def build(place: Place) -> list[object]:
        for file, content in files.items():
            place.file(file, content)
        return place.predict(place.folder / scan)

    names = (told or scan,) if expect == REFUSED else ()
    return Case(kind, name, build, expect, names, mask("x"), reason)


def cases() -> Iterator[Case]:
    yield from _meta_images()
    yield from _nrrds()
    yield from _analyze()
    yield from _mgh()
    yield from _others()


def _meta_images() -> Iterator[Case]:
    wrong: dict[str, list[tuple[str | None, str]]] = {
        "NDims": [("0", REFUSED), ("-1", REFUSED), ("2", EITHER), ("4", REFUSED), ("99", REFUSED), ("x", REFUSED), (None, REFUSED)],
        "DimSize": [("20 18", REFUSED), ("0 18 16", REFUSED), ("-20 18 16", REFUSED), ("20 18 17", REFUSED), ("99999 99999 99999", REFUSED), ("a b c", REFUSED), (None, REFUSED), ("20 18 15", EITHER)],
        "ElementType": [("MET_NOTHING", REFUSED), ("MET_DOUBLE", REFUSED), ("MET_UCHAR", EITHER), ("", REFUSED), (None, REFUSED), ("MET_SHORT_ARRAY", REFUSED)],
        "ElementSpacing": [("0 1 1", REFUSED), ("-1 1 1", EITHER), ("nan 1 1", REFUSED), ("inf 1 1", REFUSED), ("1e-30 1 1", REFUSED), ("1 1", EITHER), ("a b c", REFUSED)],
        "TransformMatrix": [("0 0 0 0 0 0 0 0 0", REFUSED), ("nan 0 0 0 1 0 0 0 1", REFUSED), ("1 0 0 1 0 0 0 0 1", REFUSED), ("1 0 0", EITHER), ("x", EITHER)],
        "Offset": [("nan 0 0", REFUSED), ("inf 0 0", REFUSED), ("x y z", EITHER), ("0 0", EITHER)],
        "ElementDataFile": [("", REFUSED), (None, REFUSED), ("nowhere.raw", REFUSED), ("LIST", REFUSED), ("x.mha", REFUSED), ("./x.mha", REFUSED), ("../../../etc/passwd", REFUSED), ("/dev/zero", REFUSED), ("/etc/hostname", REFUSED), ("%03d.raw 1 16 1", REFUSED)],
        "CompressedData": [("True", REFUSED), ("maybe", EITHER)],
        "BinaryData": [("False", REFUSED)],
        "ElementNumberOfChannels": [("2", REFUSED), ("0", EITHER), ("-1", EITHER), ("1000000", REFUSED)],
        "HeaderSize": [("-1", EITHER), ("9999999", REFUSED), ("x", EITHER)],
        "ObjectType": [("Mesh", EITHER), (None, EITHER)],
    }  # fmt: skip
    for key, values in wrong.items():
        for value, expect in values:
            geometry = key in (
                "ElementSpacing",
                "TransformMatrix",
                "Offset",
                "DimSize",
                "ElementType",
                "NDims",
                "HeaderSize",
            )
            case = _case("MetaImage", f"{key} = {value}", {"x.mha": meta(**{key: value})}, "x.mha", expect)
            yield case if expect != EITHER or not geometry else Case(case.kind, case.name, case.build, expect)
    long = "9" * 100_000  # ITK's reader overruns its buffers
    for key in (
        "NDims",
        "DimSize",
        "ElementType",
        "ElementSpacing",
        "TransformMatrix",
        "Offset",
        "ElementDataFile",
        "HeaderSize",
        "ElementNumberOfChannels",
    ):
        yield _case("MetaImage", f"{key} of 100,000 characters", {"x.mha": meta(**{key: long})}, "x.mha", REFUSED)
    yield _case("MetaImage", "NDims = 1000000", {"x.mha": meta(NDims="1000000")}, "x.mha", REFUSED)
    yield _case("MetaImage", "10,000 sizes", {"x.mha": meta(DimSize="9 " * 10_000)}, "x.mha", REFUSED)
    contents = {
        "empty": b"", "text": b"hello\n" * 9, "header only": meta(b""), "half": meta(RAW[: len(RAW) // 2]), "one byte short": meta(RAW[:-1]),
        "damaged zlib": meta(bytes(5) + zlib.compress(RAW)[5:], CompressedData="True"), "a NIfTI file": bytes(348), "zeros": bytes(900),
        "zlib cut short": meta(zlib.compress(RAW)[:-300], CompressedData="True"), "no line end": b"NDims = 3", "NUL in a key": meta().replace(b"NDims", b"NDi\0s"),
    }  # fmt: skip
    for name, content in contents.items():
        yield _case("MetaImage", name, {"x.mha": content}, "x.mha", REFUSED)
    pairs: dict[str, tuple[str, dict[str, bytes], str, str]] = {
        "data file missing": ("x.raw", {}, REFUSED, "x.raw"),
        "data file empty": ("x.raw", {"x.raw": b""}, REFUSED, "x.raw"),
        "data file short": ("x.raw", {"x.raw": RAW[:-2]}, REFUSED, "x.raw"),
        "data file longer": ("x.raw", {"x.raw": RAW + bytes(90)}, EITHER, ""),
        "data file in a folder": ("deep/x.raw", {"deep/x.raw": RAW}, ACCEPTED, ""),
        "data file with a space": ("my x.raw", {"my x.raw": RAW}, ACCEPTED, ""),
        "data file by Windows' path": ("C:\\\\scans\\\\x.raw", {"x.raw": RAW}, REFUSED, "x.raw"),
        "the header itself": ("x.mhd", {}, EITHER, ""),
        "a list one short": ("LIST", {}, REFUSED, "x.mhd"),
    }  # fmt: skip
    for name, (data, files, expect, told) in pairs.items():
        yield _case("MetaImage", name, {"x.mhd": meta(b"", ElementDataFile=data), **files}, "x.mhd", expect, "", told)
    yield _case("MetaImage", "as it should be", {"x.mha": meta()}, "x.mha", ACCEPTED, "is a valid scan")
    big = meta(VOXELS.astype(">i2").tobytes(order="F"), BinaryDataByteOrderMSB="True")
    yield _case("MetaImage", "big-endian", {"x.mha": big}, "x.mha", ACCEPTED, "is a valid scan")
    packed = zlib.compress(RAW)
    sized = meta(packed, CompressedData="True", CompressedDataSize=str(len(packed)))
    yield _case("MetaImage", "compressed", {"x.mha": sized}, "x.mha", ACCEPTED, "is a valid scan")
    yield _case(
        "MetaImage", "compressed, without its size", {"x.mha": meta(packed, CompressedData="True")}, "x.mha", EITHER
    )
    yield _case("MetaImage", "in capitals", {"x.MHA": meta()}, "x.MHA", ACCEPTED, "is a valid scan")


def _nrrds() -> Iterator[Case]:
    wrong: dict[str, list[tuple[str | None, str]]] = {
        "type": [("nothing", REFUSED), ("double", REFUSED), ("block", REFUSED), (None, REFUSED), ("", REFUSED)],
        "dimension": [("0", REFUSED), ("-3", REFUSED), ("2", REFUSED), ("4", REFUSED), ("17", REFUSED), ("x", REFUSED), (None, REFUSED)],
        "sizes": [("20 18", REFUSED), ("0 18 16", REFUSED), ("-20 18 16", REFUSED), ("20 18 17", REFUSED), ("99999 99999 99999", REFUSED), ("a b c", REFUSED), (None, REFUSED)],
        "space": [("nowhere", REFUSED), ("right-anterior-superior", EITHER), ("left-posterior-superior-time", REFUSED), (None, EITHER)],
        "space directions": [("none none none", EITHER), ("(0,0,0) (0,1,0) (0,0,1)", REFUSED), ("(nan,0,0) (0,1,0) (0,0,1)", EITHER), ("(1,0,0) (1,0,0) (0,0,1)", REFUSED), ("(1,0) (0,1) (0,0)", REFUSED), ("x", REFUSED), ("(1,0,0)", REFUSED), ("(inf,0,0) (0,1,0) (0,0,1)", REFUSED)],
        "space origin": [("(nan,0,0)", EITHER), ("(inf,0,0)", REFUSED), ("(0,0)", REFUSED), ("x", REFUSED), ("none", EITHER)],
        "encoding": [("bzip2", REFUSED), ("hex", REFUSED), ("ascii", REFUSED), ("zstd", REFUSED), (None, REFUSED)],
        "endian": [("middle", REFUSED), (None, REFUSED)],
        "kinds": [("domain domain", REFUSED), ("vector domain domain", EITHER), ("x y z", EITHER)],
        "data file": [("nowhere.raw", REFUSED), ("LIST", REFUSED), ("/etc/passwd", REFUSED), ("../../x.raw", REFUSED), ("%03d.raw 1 16 1", REFUSED)],
        "byte skip": [("-5", REFUSED), ("99999999", REFUSED), ("x", REFUSED)],
        "line skip": [("-1", REFUSED), ("1000000", REFUSED)],
    }  # fmt: skip
    for key, values in wrong.items():
        for value, expect in values:
            changes = {key.replace(" ", "_"): value}
            case = _case("NRRD", f"{key}: {value}", {"x.nrrd": nrrd(**changes)}, "x.nrrd", expect)
            yield case if expect != EITHER else Case(case.kind, case.name, case.build, expect)
    contents = {
        "empty": b"", "magic only": b"NRRD0004\n", "another magic": nrrd(magic="NRRD9999"), "no magic": nrrd(magic="# hello"),
        "no data": nrrd(b""), "half": nrrd(RAW[: len(RAW) // 2]), "one byte short": nrrd(RAW[:-1]), "text": b"hello\n" * 99,
        "gzip cut short": nrrd(gzip.compress(RAW)[:-300], encoding="gzip"), "gzip damaged": nrrd(bytes(20) + gzip.compress(RAW)[20:], encoding="gzip"),
        "no blank line": nrrd().replace(b"\n\n", b"\n", 1), "Latin-1 in a key": nrrd().replace(b"kinds", b"k\xefnds"), "zeros": bytes(900),
    }  # fmt: skip
    for name, content in contents.items():
        yield _case("NRRD", name, {"x.nrrd": content}, "x.nrrd", REFUSED)
    long = "9" * 100_000  # ITK's reader overruns its buffers
    for key, value in {
        "space": long, "kinds": "domain " * 10_000, "sizes": "9 " * 10_000, "space origin": f"({long},0,0)", "data file": long, "labels": f'"{long}"',
        "type": long, "encoding": long, "endian": long, "space directions": f"({long},0,0) (0,1,0) (0,0,1)", "dimension": long, "spacings": f"{long} 1 1", "thicknesses": "1 " * 10_000, "units": f'"{long}"', "measurement frame": f"({long},0,0) (0,1,0) (0,0,1)",
    }.items():  # fmt: skip
        yield _case(
            "NRRD", f"{key}: 100,000 characters", {"x.nrrd": nrrd(**{key.replace(" ", "_"): value})}, "x.nrrd", REFUSED
        )
    for encoding in ("ascii", "text", "txt", "hex"):
        yield _case(
            "NRRD",
            f"voxels as {encoding} without a space",
            {"x.nrrd": nrrd(b"9" * 100_000, encoding=encoding)},
            "x.nrrd",
            REFUSED,
        )
    detached = {
        "data file missing": ({}, REFUSED), "data file short": ({"x.raw": RAW[:-2]}, REFUSED), "data file empty": ({"x.raw": b""}, REFUSED),
        "data file there": ({"x.raw": RAW}, ACCEPTED),
    }  # fmt: skip
    for name, (files, expect) in detached.items():
        header = nrrd(b"", data_file="x.raw")
        yield _case("NRRD", name, {"x.nhdr": header, **files}, "x.nhdr", expect, "is a valid scan", "x.raw")
    yield _case("NRRD", "as it should be", {"x.nrrd": nrrd()}, "x.nrrd", ACCEPTED, "is a valid scan")
    yield _case(
        "NRRD", "gzip", {"x.nrrd": nrrd(gzip.compress(RAW), encoding="gzip")}, "x.nrrd", ACCEPTED, "is a valid scan"
    )
    yield _case("NRRD", "not compressed, said to be gzip", {"x.nrrd": nrrd(encoding="gzip")}, "x.nrrd", EITHER)
    itself = {"x.nrrd": nrrd(data_file="x.nrrd")}
    yield _case("NRRD", "its own data file", itself, "x.nrrd", REFUSED)
    yield _case("NRRD", "in capitals", {"x.NRRD": nrrd()}, "x.NRRD", ACCEPTED, "is a valid scan")
    yield _case("NRRD", "Windows' line ends", {"x.nrrd": nrrd(b"").replace(b"\n", b"\r\n") + RAW}, "x.nrrd", EITHER)


def _analyze() -> Iterator[Case]:
    def pair(place: Place) -> tuple[bytes, bytes]:
        image = nib.Nifti1Pair(VOXELS, AFFINE)
        image.set_sform(AFFINE, 1)
        nib.save(image, place.folder / "t.hdr")
        made = [(place.folder / f"t.{end}") for end in ("hdr", "img")]
        content = [path.read_bytes() for path in made]
        for path in made:
            path.unlink()
        return content[0], content[1]

    changes: dict[str, tuple[Callable[[bytes, bytes], dict[str, bytes]], str, str]] = {
        "image missing": (lambda h, i: {"x.hdr": h}, "x.hdr", REFUSED),
        "header missing": (lambda h, i: {"x.img": i}, "x.img", REFUSED),
        "image short": (lambda h, i: {"x.hdr": h, "x.img": i[:-3]}, "x.hdr", REFUSED),
        "image empty": (lambda h, i: {"x.hdr": h, "x.img": b""}, "x.hdr", REFUSED),
        "header short": (lambda h, i: {"x.hdr": h[:100], "x.img": i}, "x.hdr", REFUSED),
        "header empty": (lambda h, i: {"x.hdr": b"", "x.img": i}, "x.hdr", REFUSED),
        "header of zeros": (lambda h, i: {"x.hdr": bytes(348), "x.img": i}, "x.hdr", REFUSED),
        "no datatype": (lambda h, i: {"x.hdr": h[:70] + b"\0\0" + h[72:], "x.img": i}, "x.hdr", REFUSED),
        "sizes of zero": (lambda h, i: {"x.hdr": h[:42] + b"\0\0" + h[44:], "x.img": i}, "x.hdr", REFUSED),
        "given by its image": (lambda h, i: {"x.hdr": h, "x.img": i}, "x.img", EITHER),
        "given by its header": (lambda h, i: {"x.hdr": h, "x.img": i}, "x.hdr", EITHER),
        "an offset beyond the image": (lambda h, i: {"x.hdr": h[:108] + struct.pack("<f", 1e6) + h[112:], "x.img": i}, "x.hdr", REFUSED),
    }  # fmt: skip
    for name, (make, scan, expect) in changes.items():

        def build(
            place: Place, make: Callable[[bytes, bytes], dict[str, bytes]] = make, scan: str = scan
        ) -> list[object]:
            for file, content in make(*pair(place)).items():
                place.file(file, content)
            return place.predict(place.folder / scan)

        yield Case("Analyze", name, build, expect, (scan.partition(".")[0],) if expect == REFUSED else (), mask("x"))
        if expect != EITHER and len(make(b"h" * 348, b"i")) == 2:

            def found(place: Place, make: Callable[[bytes, bytes], dict[str, bytes]] = make) -> list[object]:
                for file, content in make(*pair(place)).items():
                    place.file(f"scans/{file}", content)
                return place.predict(place.folder / "scans")

            yield Case("Analyze", f"{name}, in a folder", found, REFUSED, ("x",))


def _mgh() -> Iterator[Case]:
    def content(place: Place) -> bytes:
        nib.save(nib.MGHImage(VOXELS.astype(np.float32), AFFINE), place.folder / "t.mgh")
        made = (place.folder / "t.mgh").read_bytes()
        (place.folder / "t.mgh").unlink()
        return made

    changes: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
        "as it should be": (lambda c: c, "x.mgh", EITHER), "compressed": (gzip.compress, "x.mgz", EITHER),
        "cut short": (lambda c: c[:3000], "x.mgh", REFUSED), "header only": (lambda c: c[:284], "x.mgh", REFUSED),
        "empty": (lambda c: b"", "x.mgh", REFUSED), "another version": (lambda c: struct.pack(">i", 9) + c[4:], "x.mgh", REFUSED),
        "not compressed, named .mgz": (lambda c: c, "x.mgz", REFUSED), "gzip cut short": (lambda c: gzip.compress(c)[:-900], "x.mgz", REFUSED),
        "negative size": (lambda c: c[:4] + struct.pack(">i", -20) + c[8:], "x.mgh", REFUSED), "huge size": (lambda c: c[:4] + struct.pack(">i", 2**30) + c[8:], "x.mgh", REFUSED),
        "an unknown type": (lambda c: c[:20] + struct.pack(">i", 99) + c[24:], "x.mgh", REFUSED), "spacing 0": (lambda c: c[:30] + struct.pack(">f", 0) + c[34:], "x.mgh", REFUSED),
        "spacing NaN": (lambda c: c[:30] + struct.pack(">f", float("nan")) + c[34:], "x.mgh", REFUSED),
        "four volumes": (lambda c: c[:16] + struct.pack(">i", 4) + c[20:], "x.mgh", REFUSED),
    }  # fmt: skip
    for name, (change, file, expect) in changes.items():

        def build(place: Place, change: Callable[[bytes], bytes] = change, file: str = file) -> list[object]:
            return place.predict(place.file(file, change(content(place))))

        yield Case("MGH", name, build, expect, (file,) if expect == REFUSED else (), mask("x"))


def _others() -> Iterator[Case]:
    for suffix in (".png", ".jpg", ".npy", ".npz", ".txt", ".csv", ".json", ".tif", ".bmp", ".gipl", ".vtk", ".h5", ".mnc",
                   ".pdf", ".zip", ".tar.gz", ".dcm", ".pt", "", ".", ".nii.gz.tmp", ".gz", ".par", ".nii.gz~"):  # fmt: skip
        for name, content in (("random", np.random.default_rng(3).bytes(900)), ("a scan's content", nrrd())):
            yield _case(
                "other endings", f"{suffix or 'none'}, {name}", {f"x{suffix}": content}, f"x{suffix}", REFUSED, "", "x"
            )

    def only_others(place: Place) -> list[object]:
        for suffix in (".png", ".txt", ".zip"):
            place.file(f"scans/x{suffix}", b"9" * 99)
        return place.predict(place.folder / "scans")

    yield Case("other endings", "a folder of them", only_others, REFUSED, ("scans",))
    yield Case(
        "other endings",
        "an empty folder",
        lambda p: (p.folder / "scans").mkdir() or p.predict(p.folder / "scans"),
        REFUSED,
        ("scans",),
    )
