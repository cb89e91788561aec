"""NIfTI files: every header field, truncated, damaged and badly compressed files, and invalid voxel values."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from hostile import right
from hostile.cases import ACCEPTED, EITHER, REFUSED, Case, Place
from hostile.material import AFFINE, volume, write_nifti

NAN, INF = float("nan"), float("inf")
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim_info": (39, "B"), "intent_code": (68, "h"), "datatype": (70, "h"),
    "bitpix": (72, "h"), "slice_start": (74, "h"), "vox_offset": (108, "f"), "scl_slope": (112, "f"),
    "scl_inter": (116, "f"), "slice_end": (120, "h"), "slice_code": (122, "B"), "xyzt_units": (123, "B"),
    "cal_max": (124, "f"), "cal_min": (128, "f"), "slice_duration": (132, "f"), "toffset": (136, "f"),
    "glmax": (140, "i"), "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"),
    "quatern_c": (260, "f"), "quatern_d": (264, "f"), "qoffset_x": (268, "f"), "qoffset_y": (272, "f"),
    "qoffset_z": (276, "f"), "magic": (344, "4s"), "extension": (348, "4s"),
    **{f"dim{i}": (40 + 2 * i, "h") for i in range(8)},
    **{f"pixdim{i}": (76 + 4 * i, "f") for i in range(8)},
    **{f"srow_{axis}{i}": (280 + 16 * row + 4 * i, "f") for row, axis in enumerate("xyz") for i in range(4)},
}  # fmt: skip
FREE_TEXT = {"descrip": (148, 80), "aux_file": (228, 24), "intent_name": (328, 16), "db_name": (14, 18)}

_MANY = 10**6
# field: values to refuse; values to refuse or read correctly; valid values
_VALUES: dict[str, tuple[list[object], list[object], list[object]]] = {
    "sizeof_hdr": ([], [0, -1, 347, 100000, 540], []),
    "dim0": ([-1, 0, 1, 8, 300, 32767], [2, 7], []),
    "dim1": ([0, -1, 21, 32767], [19, 1], []),
    "dim2": ([0, -20, 19, 32767], [17, 1], []),
    "dim3": ([0, -1, 17, 32767], [15, 1], []),
    "dim4": ([], [], [0, 2, -1, 32767]),  # beyond dim[0] = 3, so not in the shape
    "dim5": ([], [], [0, -1]),
    "datatype": ([0, 1, 3, 5, 255, 9999, -1, 8, 16, 32, 64, 128, 1024, 1536, 1792, 2048, 2304], [2, 256], [512]),
    "bitpix": ([], [0, 1, 8, 64, -16], []),
    "vox_offset": ([-1.0, -352.0, NAN, INF, -INF, 1e9, 1e30, 368.0], [0.0, 16.0, 348.0, 351.0, 352.5], []),
    "scl_slope": ([INF, -INF, 3e38], [], [NAN, 0.0, 1.0, -1.0, 2.0, 1e-30, 1e30]),
    "scl_inter": ([NAN, INF, -INF], [], [-1024.0, 1e30, 1e-30]),
    "pixdim0": ([], [NAN, INF], [0.0, 1.0, -1.0, 0.5, 1e30]),
    "pixdim1": ([], [0.0, -1.0, NAN, INF, 1e-10, 1e10], []),
    "pixdim2": ([], [0.0, -1.0, NAN, INF, 1e-10, 1e10], []),
    "pixdim3": ([], [0.0, -1.0, NAN, INF, 1e-10, 1e10], []),
    "pixdim4": ([], [], [0.0, NAN, -1.0]),
    "qform_code": ([], [-1, 99, 32767], [0, 2, 5]),
    "sform_code": ([], [-1, 99, 32767], [0, 2, 5]),
    "quatern_b": ([], [NAN, INF, 2.0], [0.5]),
    "quatern_c": ([], [NAN, INF, -2.0], []),
    "quatern_d": ([], [NAN, INF], []),
    "qoffset_x": ([], [NAN, INF, 1e30], []),
    "qoffset_y": ([], [NAN], []),
    "qoffset_z": ([], [NAN], []),
    "srow_x0": ([NAN, INF, 0.0, 1e-30], [1e30], [1.0]),
    "srow_x1": ([NAN, INF], [], [0.3]),
    "srow_x3": ([NAN, INF, -INF], [1e30], [1e4]),
    "srow_y1": ([NAN, INF, 0.0, 1e-30], [], []),
    "srow_y3": ([NAN], [], []),
    "srow_z2": ([NAN, INF, 0.0], [], [-1.5]),
    "srow_z3": ([NAN], [], []),
    "xyzt_units": ([], [255, 7], [0, 1, 2, 3]),
    "intent_code": ([], [1007, 2003], [1002, -1, 9999]),
    "magic": ([b"abcd", b"n+2\0", b"\xff\xff\xff\xff"], [b"ni1\0", b"\0\0\0\0", b"n+1 "], []),
    "extension": ([], [b"\1\0\0\0", b"\xff\xff\xff\xff"], []),
    "dim_info": ([], [], [255]),
    "slice_start": ([], [], [-1, 32767]),
    "slice_end": ([], [], [-1]),
    "slice_code": ([], [], [255]),
    "slice_duration": ([], [], [NAN]),
    "toffset": ([], [], [NAN]),
    "cal_max": ([], [], [NAN, INF]),
    "cal_min": ([], [], [NAN, 1e30]),
    "glmax": ([], [], [-1]),
}
_BY_QFORM: dict[str, list[object]] = {  # with sform_code 0, these define the affine
    "pixdim1": [0.0, NAN, INF, 1e-30, -1.0], "pixdim2": [0.0, NAN, INF], "pixdim3": [0.0, NAN, INF],
    "quatern_b": [NAN, INF, 2.0], "quatern_c": [NAN, -2.0], "qoffset_x": [NAN, INF], "qoffset_z": [NAN],
}  # fmt: skip
_WHY = {
    "bitpix": "repeats datatype, and no reader uses it",
    "qform_code": "a form with an unknown code counts as not set, so the other form applies",
    "sform_code": "a form with an unknown code counts as not set, so the other form applies",
    "scl_slope": "0 and NaN mean that values are stored as they are",
    "srow_x3": "a scan may be far from the origin",
}


def changed(content: bytes, **fields: object) -> bytes:
    data = bytearray(content)
    for name, value in fields.items():
        offset, kind = FIELDS[name]
        struct.pack_into(f"<{kind}", data, offset, value)
    return bytes(data)


def cases() -> Iterator[Case]:
    yield from _header()
    yield from _truncated()
    yield from _compressed()
    yield from _other_content()
    yield from _values()
    yield from _free_text()
    yield from _other_commands()


def _predicting(content: Callable[[bytes], bytes], name: str = "x.nii", *options: object) -> Callable[[Place], object]:
    def build(place: Place) -> list[object]:
        scan = place.file(name, content(place.material.scan.read_bytes()))
        return [*place.predict(scan), *options]

    return build


def _true(place: Place) -> str | None:
    """Check the label map against the file before the change."""
    return right.scan_of(place, "x", place.material.scan)


def _header() -> Iterator[Case]:
    as_it_was = {"vox_offset", "magic", "bitpix", "extension"}
    for field, groups in _VALUES.items():
        for expect, values in zip((REFUSED, EITHER, ACCEPTED), groups, strict=True):
            for value in values:
                judged = _true if field in as_it_was else right.predicted(x=Path("x.nii"))
                yield Case(
                    "NIfTI header", f"{field}={value!r}",
                    _predicting(lambda content, f=field, v=value: changed(content, **{f: v})),
                    expect, ("x.nii",) if expect == REFUSED else (), judged, _WHY.get(field, ""),
                )  # fmt: skip
    for field, values in _BY_QFORM.items():
        for value in values:
            yield Case(
                "NIfTI header", f"sform_code=0,{field}={value!r}",
                _predicting(lambda content, f=field, v=value: changed(content, sform_code=0, **{f: v})),
                REFUSED, ("x.nii",),
            )  # fmt: skip
    several: dict[str, tuple[dict[str, object], str]] = {
        "no form at all": ({"sform_code": 0, "qform_code": 0}, ACCEPTED),
        "no form, pixdim 0": ({"sform_code": 0, "qform_code": 0, "pixdim1": 0.0, "pixdim2": 0.0, "pixdim3": 0.0}, REFUSED),
        "no form, pixdim NaN": ({"sform_code": 0, "qform_code": 0, "pixdim2": NAN}, REFUSED),
        "two volumes in four dimensions": ({"dim0": 4, "dim3": 8, "dim4": 2}, REFUSED),
        "five dimensions": ({"dim0": 5, "dim3": 4, "dim4": 2, "dim5": 2}, REFUSED),
        "a vector of two": ({"dim0": 5, "dim3": 8, "dim4": 1, "dim5": 2}, REFUSED),
        "seven dimensions of one": ({"dim0": 7, **{f"dim{i}": 1 for i in range(4, 8)}}, EITHER),
        "all sizes huge": ({"dim1": 32767, "dim2": 32767, "dim3": 32767}, REFUSED),
        "singular by two equal rows": ({f"srow_y{i}": (-1.0, 0.0, 0.0, 30.0)[i] for i in range(4)}, REFUSED),
        "half a turn of shear": ({"srow_x1": 1.25, "srow_x0": -1.0}, ACCEPTED),
        "axes swapped": (
            {"srow_x0": 0.0, "srow_x1": 1.25, "srow_y0": 1.0, "srow_y1": 0.0}, ACCEPTED,
        ),
        "slope and intercept of CT": ({"scl_slope": 1.0, "scl_inter": -1024.0}, ACCEPTED),
        "slope 0, intercept 7": ({"scl_slope": 0.0, "scl_inter": 7.0}, EITHER),
    }  # fmt: skip
    for name, (fields, expect) in several.items():
        yield Case(
            "NIfTI header", name, _predicting(lambda content, f=fields: changed(content, **f)), expect,
            ("x.nii",) if expect == REFUSED else (), right.predicted(x=Path("x.nii")),
        )  # fmt: skip
    for name, scale in {"1e-10 mm": 1e-10, "1e-3 mm": 1e-3, "1e4 mm": 1e4, "1e10 mm": 1e10}.items():
        for target in ("[1,1,1]", "[0.5,0.5,0.5]", "[3,3,3]"):
            fields = {f"srow_{a}{i}": float(AFFINE[r, i] * scale) for r, a in enumerate("xyz") for i in range(3)}
            small = scale < 1  # 16 voxels of 1e-3 mm are less than one voxel of any of these sizes
            yield Case(
                "NIfTI header", f"voxels of {name} brought to {target}",
                _predicting(lambda content, f=fields: changed(content, **f), "x.nii", "--spacing", target),
                REFUSED if small or scale > 1e4 else EITHER, ("x.nii",) if small else (),
                lambda place: None,
            )  # fmt: skip


def _truncated() -> Iterator[Case]:
    for end in (0, 1, 4, 100, 344, 347, 348, 351, 352, 353, 354, 1000, 6000, -1000, -2, -1):
        yield Case("NIfTI cut short", f".nii at {end}", _predicting(lambda c, e=end: c[:e]), REFUSED, ("x.nii",))
    for end in (0, 1, 2, 9, 10, 11, 18, 50, 300, 2000, -2000, -100, -9, -8, -7, -5, -4, -1):
        yield Case(
            "NIfTI cut short", f".nii.gz at {end}",
            _predicting(lambda c, e=end: gzip.compress(c, 6, mtime=0)[:e], "x.nii.gz"), REFUSED, ("x.nii.gz",),
        )  # fmt: skip
    for start in (1, 4, 100, 348, 352):
        yield Case(
            "NIfTI cut short", f".nii without its first {start} bytes", _predicting(lambda c, s=start: c[s:]), REFUSED,
            ("x.nii",),
        )  # fmt: skip


def _flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        data = bytearray(gzip.compress(content, 6, mtime=0))
        data[at] ^= 0xFF
        return bytes(data)

    return flip


def _compressed() -> Iterator[Case]:
    import bz2
    import io
    import lzma
    import zipfile

    def zipped(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.nii", content)
        return file.getvalue()

    def raw_deflate(content: bytes) -> bytes:
        return gzip.compress(content, mtime=0)[10:-8]

    for at in (0, 1, 2, 3, 10, 12, 100, 1000, 4000, -1000, -9, -8, -6, -5, -4, -1):
        flags = at == 3  # all flags of the gzip header: name, comment, extra field
        yield Case(
            "NIfTI compressed", f"bits of byte {at} flipped", _predicting(_flipped(at), "x.nii.gz"),
            EITHER if flags else REFUSED, () if flags else ("x.nii.gz",), _true,
        )  # fmt: skip
    wrong: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
        "not compressed, named .nii.gz": (lambda c: c, "x.nii.gz", EITHER),
        "compressed, named .nii": (lambda c: gzip.compress(c, mtime=0), "x.nii", EITHER),
        "compressed twice": (lambda c: gzip.compress(gzip.compress(c, mtime=0), mtime=0), "x.nii.gz", REFUSED),
        "bzip2 named .nii.gz": (bz2.compress, "x.nii.gz", REFUSED),
        "xz named .nii.gz": (lzma.compress, "x.nii.gz", REFUSED),
        "zip named .nii.gz": (zipped, "x.nii.gz", REFUSED),
        "zlib named .nii.gz": (zlib.compress, "x.nii.gz", REFUSED),
        "deflate without a header": (raw_deflate, "x.nii.gz", REFUSED),
        "two members": (lambda c: gzip.compress(c[:3000], mtime=0) + gzip.compress(c[3000:], mtime=0), "x.nii.gz", ACCEPTED),
        "ends in zeros": (lambda c: gzip.compress(c, mtime=0) + bytes(512), "x.nii.gz", EITHER),
        "ends in garbage": (lambda c: gzip.compress(c, mtime=0) + b"garbage" * 9, "x.nii.gz", EITHER),
        "an empty member": (lambda c: gzip.compress(b"", mtime=0), "x.nii.gz", REFUSED),
        "stored, not deflated": (lambda c: gzip.compress(c, 0, mtime=0), "x.nii.gz", ACCEPTED),
        "100 MB of zeros after it": (lambda c: gzip.compress(c + bytes(10**8), 9, mtime=0), "x.nii.gz", EITHER),
        "100 MB of zeros as a scan": (lambda c: gzip.compress(bytes(10**8), 9, mtime=0), "x.nii.gz", REFUSED),
        "huge sizes over zeros": (
            lambda c: gzip.compress(changed(c, dim1=30000, dim2=30000, dim3=30000) + bytes(10**6), 9, mtime=0),
            "x.nii.gz", REFUSED,
        ),
        ".NII.GZ in capitals": (lambda c: gzip.compress(c, mtime=0), "x.NII.GZ", ACCEPTED),
        "bzip2 named .nii.bz2": (bz2.compress, "x.nii.bz2", EITHER),
        "xz named .nii.xz": (lzma.compress, "x.nii.xz", REFUSED),
        "zstd by name only": (lambda c: c, "x.nii.zst", REFUSED),
    }  # fmt: skip
    for name, (content, file, expect) in wrong.items():
        yield Case(
            "NIfTI compressed", name, _predicting(content, file), expect, (file,) if expect == REFUSED else (), _true
        )


def _other_content() -> Iterator[Case]:
    contents = {
        "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20,
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 8817\n",
        "text": b"Dear radiologist\n" * 100,
        "random bytes": np.random.default_rng(1).bytes(8000),
        "zeros": bytes(8000),
        "0xFF": b"\xff" * 8000,
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(3000),
        "JPEG": b"\xff\xd8\xff\xe0" + bytes(3000),
        "PDF": b"%PDF-1.4\n" + bytes(3000),
        "DICOM": bytes(128) + b"DICM" + bytes(3000),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(3000),
        "NumPy": b"\x93NUMPY\1\0v\0{'descr': '<i2', 'fortran_order': False, 'shape': (20, 18, 16)}" + bytes(9000),
        "NRRD": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n" + bytes(400),
        "MetaImage": b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
        "an executable": b"\x7fELF\x02\x01\x01" + bytes(3000),
        "one byte": b"\0",
    }  # fmt: skip
    for name, content in contents.items():
        for file in ("x.nii", "x.nii.gz"):
            yield Case(
                "other content", f"{name} named {file}", _predicting(lambda _, c=content: c, file), REFUSED, (file,)
            )


def _values() -> Iterator[Case]:
    base = volume(100).astype(np.float32)
    affected: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
        "one NaN": (lambda a: _put(a, NAN, 1), REFUSED),
        "one Inf": (lambda a: _put(a, INF, 1), REFUSED),
        "one -Inf": (lambda a: _put(a, -INF, 1), REFUSED),
        "Inf and -Inf": (lambda a: _put(_put(a, INF, 1), -INF, 2), REFUSED),
        "all NaN": (lambda a: a * NAN, REFUSED),
        "half NaN": (lambda a: _put(a, NAN, len(a) // 2), REFUSED),
        "1e38": (lambda a: _put(a, 1e38, 5), ACCEPTED),
        "all zero": (lambda a: a * 0, ACCEPTED),
        "all one value": (lambda a: a * 0 + 700, ACCEPTED),
        "-1e38": (lambda a: _put(a, -1e38, 5), ACCEPTED),
        "denormals": (lambda a: _put(a, 1e-44, 5), ACCEPTED),
    }
    for name, (change, expect) in affected.items():

        def build(place: Place, change: Callable[[np.ndarray], np.ndarray] = change) -> list[object]:
            return place.predict(write_nifti(place.folder / "x.nii", change(base.ravel().copy()).reshape(base.shape)))

        yield Case(
            "values", name, build, expect, ("x.nii",) if expect == REFUSED else (), right.predicted(x=Path("x.nii")),
            "no voxel is unknown, and values outside the window are clipped",
        )  # fmt: skip

        def scored(place: Place, change: Callable[[np.ndarray], np.ndarray] = change) -> list[object]:
            data = place.dataset()
            array = change(volume(1).astype(np.float32).ravel()).reshape(base.shape)
            write_nifti(data / "imagesTr" / "case_1.nii", array)
            return place.train(data)

        if expect == REFUSED:
            yield Case("values", f"{name}, in training", scored, REFUSED, ("case_1",))
    kinds = {
        "float64 beyond float32": np.array([1e300]), "complex64": np.array([1 + 2j], np.complex64),
        "uint64 beyond float": np.array([2**64 - 1], np.uint64), "int64": np.array([-(2**62)], np.int64),
    }  # fmt: skip
    for name, value in kinds.items():

        def typed(place: Place, value: np.ndarray = value) -> list[object]:
            array = volume(100).astype(value.dtype)
            array[0, 0, 0] = value[0]
            nib.save(nib.Nifti1Image(array, AFFINE, dtype=array.dtype), place.folder / "x.nii")
            return place.predict(place.folder / "x.nii")

        refused = name.startswith(("float64", "complex"))
        yield Case(
            "values", name, typed, REFUSED if refused else ACCEPTED, ("x.nii",) if refused else (),
            right.predicted(x=Path("x.nii")),
        )  # fmt: skip
    for name, make in {
        "NIfTI-2": lambda p: nib.save(nib.Nifti2Image(volume(100), AFFINE), p),
        "big-endian": lambda p: nib.save(nib.Nifti1Image(volume(100), AFFINE, nib.Nifti1Header(endianness=">")), p),
        "one voxel": lambda p: nib.save(nib.Nifti1Image(np.full((1, 1, 1), 900, np.int16), AFFINE), p),
        "one slice": lambda p: nib.save(nib.Nifti1Image(volume(100)[:, :, :1], AFFINE), p),
        "a line": lambda p: nib.save(nib.Nifti1Image(volume(100)[:, :1, :1], AFFINE), p),
        "one volume in four dimensions": lambda p: nib.save(nib.Nifti1Image(volume(100)[..., None], AFFINE), p),
        "bool stored as uint8": lambda p: nib.save(nib.Nifti1Image((volume(100) > 500).astype(np.uint8), AFFINE), p),
    }.items():

        def made(place: Place, make: Callable[[Path], None] = make) -> list[object]:
            make(place.folder / "x.nii")
            return place.predict(place.folder / "x.nii")

        yield Case("values", name, made, ACCEPTED, (), right.predicted(x=Path("x.nii")), "is a valid scan")


def _put(array: np.ndarray, value: float, count: int) -> np.ndarray:
    flat = array.copy()
    flat[7 : 7 + count] = value
    return flat


def _free_text() -> Iterator[Case]:
    """Patient information in a header must not be in the label map."""
    for field, (offset, length) in FREE_TEXT.items():
        for name, text in {
            "a name": b"DOE^JANE 1961", "not text": b"\xff\xfe\x80" * 3, "a formula": b"=HYPERLINK(1)", "an end": b"A" * 80
        }.items():  # fmt: skip
            written = text[:length].ljust(length, b"\0")

            def build(place: Place, offset: int = offset, written: bytes = written) -> list[object]:
                content = bytearray(place.material.scan.read_bytes())
                content[offset : offset + len(written)] = written
                return place.predict(place.file("x.nii", bytes(content)))

            def kept(place: Place, field: str = field) -> str | None:
                label = nib.load(place.output / "x_seg.nii.gz")
                found = bytes(label.header[field]).strip(b"\0")
                return (
                    f"{field} is {found!r} in the label map"
                    if found
                    else right.scan_of(place, "x", place.material.scan)
                )

            yield Case("free text", f"{field} is {name}", build, ACCEPTED, (), kept, "is cleared in the label map")


def _other_commands() -> Iterator[Case]:
    """The same files as image or label map of a case in training, evaluation, cross-validation and check."""
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut short": lambda c: c[:3000], "an empty file": lambda c: b"", "text": lambda c: b"no scan\n" * 90,
        "sizes of zero": lambda c: changed(c, dim1=0), "sizes beyond the file": lambda c: changed(c, dim3=900),
        "huge sizes": lambda c: changed(c, dim1=32767, dim2=32767, dim3=32767),
        "no datatype": lambda c: changed(c, datatype=0), "an unknown datatype": lambda c: changed(c, datatype=9999),
        "color": lambda c: changed(c, datatype=128), "nine dimensions": lambda c: changed(c, dim0=9),
        "a negative offset": lambda c: changed(c, vox_offset=-352.0), "an offset of NaN": lambda c: changed(c, vox_offset=NAN),
        "slope Inf": lambda c: changed(c, scl_slope=INF), "intercept NaN": lambda c: changed(c, scl_inter=NAN),
        "a singular affine": lambda c: changed(c, srow_x0=0.0), "an affine of NaN": lambda c: changed(c, srow_y3=NAN),
        "pixdim 0 without an sform": lambda c: changed(c, sform_code=0, pixdim1=0.0),
        "no magic": lambda c: changed(c, magic=b"abcd"), "four dimensions": lambda c: changed(c, dim0=4, dim3=8, dim4=2),
    }  # fmt: skip
    for name, damage in damages.items():
        for part in ("images", "labels"):

            def build(
                place: Place, command: str, damage: Callable[[bytes], bytes] = damage, part: str = part
            ) -> list[object]:
                data = place.dataset()
                path = data / f"{part}Tr" / "case_1.nii"
                path.write_bytes(damage(path.read_bytes()))
                if command == "check":
                    return place.check(data)
                return getattr(place, command)(data)

            for command in ("check", "train", "evaluate"):
                yield Case(
                    f"{command}: a damaged case", f"{part[:-1]}: {name}", lambda p, b=build, c=command: b(p, c), REFUSED,
                    ("case_1",),
                )  # fmt: skip
    for name in ("cut short", "no datatype", "slope Inf"):

        def crossed(place: Place, damage: Callable[[bytes], bytes] = damages[name]) -> list[object]:
            data = place.dataset()
            path = data / "imagesTr" / "case_1.nii"
            path.write_bytes(damage(path.read_bytes()))
            return place.cross_validate(data)

        yield Case("cross-validate: a damaged case", name, crossed, REFUSED, ("case_1",))
