"""MetaImage and NRRD headers: checks for headers that make ITK crash or return zeros."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from segbundle.errors import DataError
from segbundle.io.scans import read_geometry, read_scan

VALUES = np.random.default_rng(0).integers(-999, 999, (7, 6, 5)).astype(np.int16)
LONG = "9" * 100_000


def write(folder, name, compressed=False):
    path = folder / name
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), compressed)
    return path


def with_field(path, key, value):
    """Replace a field of a header, or add it before the last field; None removes it."""
    head, separator = (b" = ", b"ElementDataFile") if path.suffix in (".mha", ".mhd") else (b": ", b"encoding")
    content = path.read_bytes()
    start = content.find(key.encode() + head)
    line = b"" if value is None else key.encode() + head + value.encode() + b"\n"
    if start < 0:
        start = end = content.find(separator)
    else:
        end = content.find(b"\n", start) + 1
    path.write_bytes(content[:start] + line + content[end:])


def assert_refused(path, key, value, message):
    """Check that a header with a changed field cannot be read, and that the error names the file and the field."""
    with_field(path, key, value)
    for reading in (read_scan, read_geometry):
        with pytest.raises(DataError) as caught:
            reading(path)
        assert message in str(caught.value) and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NDims", "-1", "NDims is '-1', an invalid value"),
        ("NDims", "0", "NDims is '0'"),
        ("NDims", "99", "NDims is '99'"),
        ("NDims", "three", "NDims is 'three'"),
        ("NDims", "4", "DimSize is '5 6 7', an invalid value"),
        ("DimSize", "5 6 -7", "DimSize is '5 6 -7'"),
        ("DimSize", "5 6 7.5", "DimSize is"),
        ("DimSize", LONG, "an invalid or too long line: 'DimSize'"),
        ("Comment", LONG, "an invalid or too long line: 'Comment'"),
        ("ElementType", "MET_NOTHING", "ElementType is 'MET_NOTHING', an unknown type"),
        ("ElementNumberOfChannels", "0", "ElementNumberOfChannels is '0'"),
        ("ElementNumberOfChannels", "1000000", "ElementNumberOfChannels is"),
        ("ElementSpacing", "1 1 nan", "ElementSpacing is '1 1 nan'"),
        ("ElementSpacing", "1 1", "ElementSpacing is '1 1'"),
        ("ElementSpacing", "1 -2 1", "ElementSpacing is '1 -2 1'"),
        ("ElementSpacing", "0 1 1", "ElementSpacing is '0 1 1'"),
        ("ElementSpacing", None, "its header has no ElementSpacing or ElementSize, so the voxel size is unknown"),
        ("DistanceUnits", "cm", "its header gives sizes in 'cm' (DistanceUnits) instead of millimeters"),
        ("ElementToIntensityFunctionSlope", "2", "ElementToIntensityFunctionSlope is '2', but scale factors are not"),
        ("ElementToIntensityFunctionOffset", "-1024", "ElementToIntensityFunctionOffset is '-1024'"),
        ("ElementToIntensityFunctionSlope", "nan", "ElementToIntensityFunctionSlope is 'nan', an invalid value"),
        ("Offset", "inf 0 0", "Offset is 'inf 0 0'"),
        ("TransformMatrix", "1 0 0 0 1 0 0 0", "TransformMatrix is"),
        ("BinaryData", "False", "written as text"),
        ("ElementDataFile", "/dev/zero", "/dev/zero cannot contain its voxels"),
        ("ElementDataFile", "nothing.raw", "nothing.raw is missing"),
    ],
)
def test_invalid_metaimage_header_raises(tmp_path, name, key, value, message):
    assert_refused(write(tmp_path, name), key, value, message)


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dimension", "16", "dimension is '16', an invalid value"),
        ("dimension", "-1", "dimension is '-1'"),
        ("sizes", "5 6", "sizes is '5 6'"),
        ("sizes", "9 " * 10_000, "an invalid or too long line"),
        ("space", "x" * 100_000, "an invalid or too long line"),
        ("kinds", "domain " * 10_000, "an invalid or too long line"),
        ("labels", f'"{LONG}"', "an invalid or too long line"),
        ("space origin", f"({LONG},0,0)", "an invalid or too long line"),
        ("space origin", "(inf,0,0)", "space origin is '(inf,0,0)'; it must be finite"),
        ("space directions", "(1,0,0) (0,x,0) (0,0,1)", "space directions is"),
        ("space directions", None, "its header has no `spacings` or `space directions`, so the voxel size is unknown"),
        ("space directions", "none (0,1,0) (0,0,1)", "no direction for each spatial axis in `space directions`"),
        ("space", "scanner-xyz", "its space is 'scanner-xyz', which does not define anatomical"),
        ("space", "3D-right-handed", "its space is '3D-right-handed'"),
        ("space", "left-posterior-superior-time", "its space is 'left-posterior-superior-time'"),
        ("space units", '"mm" "cm" "mm"', "its header gives sizes in 'cm' (space units) instead of millimeters"),
        ("spaceunits", '"um" "um" "um"', "its header gives sizes in 'um' (space units)"),
        ("units", '"cm" "cm" "cm"', "its header gives sizes in 'cm' (units)"),
        ("units", " ".join(['"micro' + 'metre"'] * 3), "instead of millimeters"),
        ("encoding", "ascii", "its encoding is 'ascii', which is not supported. Save it as raw"),
        ("encoding", "hex", "its encoding is 'hex'"),
        ("byte skip", "-7", "byte skip is '-7'"),
    ],
)
def test_invalid_nrrd_header_raises(tmp_path, name, key, value, message):
    assert_refused(write(tmp_path, name), key, value, message)


WITHOUT_SPACE = {"space": None, "space directions": None, "space origin": None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thicknesses": "1 1 2"}, "its header has no `spacings`"),
        ({"axis mins": "0 0 0", "axis maxs": "4 5 6"}, "its header has no `spacings`"),
        ({"spacings": "1 nan 2"}, "spacings is '1 nan 2', an invalid value"),
        ({"spacings": "1 -1 2"}, "spacings is '1 -1 2'"),
        ({"spacings": "1 2"}, "spacings is '1 2'"),
        ({"space dimension": "3", "space directions": "(1,0,0) (0,1,0) (0,0,2)"}, "its space is ''"),
    ],
)
def test_nrrd_header_without_sizes_or_space_raises(tmp_path, fields, message):
    path = write(tmp_path, "a.nrrd")
    *others, (key, value) = {**WITHOUT_SPACE, **fields}.items()
    for other in others:
        with_field(path, *other)
    assert_refused(path, key, value, message)


@pytest.mark.parametrize(
    ("name", "fields", "spacing"),
    [
        ("a.nrrd", {**WITHOUT_SPACE, "spacings": "1 2 4"}, (1, 2, 4)),
        ("a.nrrd", {"space": "RAS", "space units": '"mm" "mm" ""'}, (1, 1, 1)),
        ("a.nrrd", {"space": "RAS", "space units": " ".join(['"milli' + 'metres"'] * 3)}, (1, 1, 1)),
        ("a.nrrd", {"space": "Left-Anterior-Superior"}, (1, 1, 1)),
        ("a.nrrd", {"space directions": None, "spacedirections": "(1,0,0) (0,2,0) (0,0,4)"}, (1, 2, 4)),
        ("a.mha", {"ElementSpacing": None, "ElementSize": "1 2 4"}, (1, 2, 4)),
        ("a.mha", {"ElementToIntensityFunctionSlope": "1.0", "ElementToIntensityFunctionOffset": "0"}, (1, 1, 1)),
        ("a.mha", {"DistanceUnits": "mm"}, (1, 1, 1)),
    ],
)
def test_alternative_size_fields(tmp_path, name, fields, spacing):
    path = write(tmp_path, name)
    for field in fields.items():
        with_field(path, *field)
    scan = read_scan(path, None)
    np.testing.assert_array_equal(scan.array[0], VALUES.transpose(2, 1, 0))
    assert scan.geometry.spacing == spacing


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize(
    ("shape", "vectors", "expected"),
    [((7, 6), False, (1, 6, 7, 1)), ((3, 7, 6, 5), False, (3, 5, 6, 7)), ((7, 6, 5, 3), True, (3, 5, 6, 7))],
)
def test_files_written_by_simpleitk(tmp_path, name, shape, vectors, expected):
    """A slice, several volumes, and voxels with several channels; for the first two, NRRD has no space."""
    image = sitk.GetImageFromArray(np.ones(shape, np.int16), isVector=vectors)
    image.SetSpacing([1, 2, 4, 8][: image.GetDimension()])
    sitk.WriteImage(image, str(tmp_path / name))
    scan = read_scan(tmp_path / name)
    assert scan.array.shape == expected
    assert scan.geometry.spacing == ((1, 2, 1) if len(shape) == 2 else (1, 2, 4))


@pytest.mark.parametrize(("name", "key"), [("a.mha", "ElementDataFile"), ("a.nrrd", "data file")])
def test_header_with_itself_as_data_file_raises(tmp_path, name, key):
    path = write(tmp_path, name)
    with_field(path, key, f"./{name}")
    with pytest.raises(DataError, match="cannot contain its voxels"):
        read_scan(path)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_upper_case_suffixes(tmp_path, name):
    path = write(tmp_path, name)
    path = path.rename(path.with_suffix(path.suffix.upper()))
    np.testing.assert_array_equal(read_scan(path, None).array[0], VALUES.transpose(2, 1, 0))


def test_segmentation_header_with_many_lines(tmp_path):
    path = write(tmp_path, "a.seg.nrrd")
    entries = "".join(
        f"Segment{n}_{key}:={'Segmentation category and type - DICOM master list~' * 3}\n"
        for n in range(200)
        for key in ("Color", "ID", "Layer", "Name", "Tags")
    )
    content = path.read_bytes()
    start = content.find(b"encoding")
    path.write_bytes(content[:start] + entries.encode() + content[start:])
    np.testing.assert_array_equal(read_scan(path, None).array[0], VALUES.transpose(2, 1, 0))


@pytest.mark.parametrize("kind", ["zlib", "gzip"])
@pytest.mark.parametrize("order", ["False", "True"])
def test_compressed_metaimage_byte_orders(tmp_path, kind, order):
    path = write(tmp_path, "a.mha")
    with_field(path, "CompressedData", "True")
    with_field(path, "BinaryDataByteOrderMSB", order)
    content = path.read_bytes()
    start = content.find(b"LOCAL\n") + len(b"LOCAL\n")
    packing = zlib.compressobj(wbits=31 if kind == "gzip" else 15)
    voxels = VALUES.astype(">i2" if order == "True" else "<i2").tobytes()
    path.write_bytes(content[:start] + packing.compress(voxels) + packing.flush())
    found = read_scan(path, None).array
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found[0], VALUES.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda voxels: voxels[:-20], "210 voxels, 420 bytes; a.mha has"),
        (lambda voxels: voxels[:30] + b"\x55" * 20 + voxels[50:], "a.mha: cannot be read"),
        (lambda voxels: VALUES.tobytes(), "cannot be decompressed"),
        (lambda voxels: zlib.compress(VALUES.tobytes()[:-2]), "420 bytes; a.mha has 418"),
        (lambda voxels: zlib.compress(VALUES.tobytes() * 2), "420 bytes; a.mha has more than 420"),
        (lambda voxels: b"", "420 bytes; a.mha has 0"),
    ],
)
def test_damaged_compressed_voxels_raise(tmp_path, change, message):
    path = write(tmp_path, "a.mha", compressed=True)
    content = path.read_bytes()
    start = content.find(b"LOCAL\n") + len(b"LOCAL\n")
    path.write_bytes(content[:start] + change(content[start:]))
    with pytest.raises(DataError) as caught:
        read_scan(path)
    assert message in str(caught.value)


MUTATIONS = """
import sys, pathlib, random
from segbundle.io import read_scan
from segbundle.errors import DataError
path, original = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]).read_bytes()
end = original.find(b"LOCAL\\n") + 6 if path.suffix == ".mha" else original.find(b"\\n\\n") + 2
pieces = [b"-1", b"0", b"99", b"1e999", b"nan", b"9" * 2000, b" ", b"\\n", b":", b"=", b"\\0", b"(", b"%d", b"\\xff"]
for seed in range(150):
    draw, header = random.Random(seed), bytearray(original[:end])
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(4, len(header))
        header[place : place + draw.randint(0, 4)] = draw.choice(pieces)
    path.write_bytes(bytes(header) + original[end:])
    try:
        read_scan(path)
    except DataError as error:
        assert str(path) in str(error)
print("done")
"""


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_damaged_headers_do_not_crash(tmp_path, name):
    path = write(tmp_path, name)
    done = subprocess.run([sys.executable, "-c", MUTATIONS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-2000:]
