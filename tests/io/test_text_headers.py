"""Headers of MetaImage and NRRD files: refused in Python where ITK's readers would crash or give zeros."""

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
    """Replace a field of a header, or add it before the last one; None removes it."""
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
        ("NDims", "-1", "NDims is '-1', which cannot be"),
        ("NDims", "0", "NDims is '0'"),
        ("NDims", "99", "NDims is '99'"),
        ("NDims", "three", "NDims is 'three'"),
        ("NDims", "4", "DimSize is '5 6 7', which cannot be"),
        ("DimSize", "5 6 -7", "DimSize is '5 6 -7'"),
        ("DimSize", "5 6 7.5", "DimSize is"),
        ("DimSize", LONG, "a line that is none or too long: 'DimSize'"),
        ("Comment", LONG, "a line that is none or too long: 'Comment'"),
        ("ElementType", "MET_NOTHING", "ElementType is 'MET_NOTHING', which is not known"),
        ("ElementNumberOfChannels", "0", "ElementNumberOfChannels is '0'"),
        ("ElementNumberOfChannels", "1000000", "ElementNumberOfChannels is"),
        ("ElementSpacing", "1 1 nan", "ElementSpacing is '1 1 nan'"),
        ("ElementSpacing", "1 1", "ElementSpacing is '1 1'"),
        ("ElementSpacing", "1 -2 1", "ElementSpacing is '1 -2 1'"),
        ("ElementSpacing", "0 1 1", "ElementSpacing is '0 1 1'"),
        ("ElementSpacing", None, "its header has no ElementSpacing or ElementSize: voxels have no size"),
        ("DistanceUnits", "cm", "its header gives sizes in 'cm' (DistanceUnits), and millimeters are needed"),
        ("ElementToIntensityFunctionSlope", "2", "ElementToIntensityFunctionSlope is '2', and values are read without"),
        ("ElementToIntensityFunctionOffset", "-1024", "ElementToIntensityFunctionOffset is '-1024'"),
        ("ElementToIntensityFunctionSlope", "nan", "ElementToIntensityFunctionSlope is 'nan', which cannot be"),
        ("Offset", "inf 0 0", "Offset is 'inf 0 0'"),
        ("TransformMatrix", "1 0 0 0 1 0 0 0", "TransformMatrix is"),
        ("BinaryData", "False", "written as text"),
        ("ElementDataFile", "/dev/zero", "/dev/zero is not a file that could hold its voxels"),
        ("ElementDataFile", "nothing.raw", "nothing.raw, is missing"),
    ],
)
def test_a_metaimage_header_is_refused(tmp_path, name, key, value, message):
    assert_refused(write(tmp_path, name), key, value, message)


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dimension", "16", "dimension is '16', which cannot be"),
        ("dimension", "-1", "dimension is '-1'"),
        ("sizes", "5 6", "sizes is '5 6'"),
        ("sizes", "9 " * 10_000, "a line that is none or too long"),
        ("space", "x" * 100_000, "a line that is none or too long"),
        ("kinds", "domain " * 10_000, "a line that is none or too long"),
        ("labels", f'"{LONG}"', "a line that is none or too long"),
        ("space origin", f"({LONG},0,0)", "a line that is none or too long"),
        ("space origin", "(inf,0,0)", "space origin is '(inf,0,0)', which is not finite"),
        ("space directions", "(1,0,0) (0,x,0) (0,0,1)", "space directions is"),
        ("space directions", None, "its header has no `spacings` or `space directions`: voxels have no size"),
        ("space directions", "none (0,1,0) (0,0,1)", "no direction for each spatial axis in `space directions`"),
        ("space", "scanner-xyz", "its space is 'scanner-xyz', which does not say where left"),
        ("space", "3D-right-handed", "its space is '3D-right-handed'"),
        ("space", "left-posterior-superior-time", "its space is 'left-posterior-superior-time'"),
        ("space units", '"mm" "cm" "mm"', "its header gives sizes in 'cm' (space units), and millimeters are needed"),
        ("spaceunits", '"um" "um" "um"', "its header gives sizes in 'um' (space units)"),
        ("units", '"cm" "cm" "cm"', "its header gives sizes in 'cm' (units)"),
        ("encoding", "ascii", "its encoding is 'ascii', which is not read. Save it as binary"),
        ("encoding", "hex", "its encoding is 'hex'"),
        ("byte skip", "-7", "byte skip is '-7'"),
    ],
)
def test_an_nrrd_header_is_refused(tmp_path, name, key, value, message):
    assert_refused(write(tmp_path, name), key, value, message)


WITHOUT_SPACE = {"space": None, "space directions": None, "space origin": None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thicknesses": "1 1 2"}, "its header has no `spacings`"),
        ({"axis mins": "0 0 0", "axis maxs": "4 5 6"}, "its header has no `spacings`"),
        ({"spacings": "1 nan 2"}, "spacings is '1 nan 2', which cannot be"),
        ({"spacings": "1 -1 2"}, "spacings is '1 -1 2'"),
        ({"spacings": "1 2"}, "spacings is '1 2'"),
        ({"space dimension": "3", "space directions": "(1,0,0) (0,1,0) (0,0,2)"}, "its space is ''"),
    ],
)
def test_an_nrrd_header_without_sizes_or_space_is_refused(tmp_path, fields, message):
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
        ("a.nrrd", {"space": "Left-Anterior-Superior"}, (1, 1, 1)),
        ("a.nrrd", {"space directions": None, "spacedirections": "(1,0,0) (0,2,0) (0,0,4)"}, (1, 2, 4)),
        ("a.mha", {"ElementSpacing": None, "ElementSize": "1 2 4"}, (1, 2, 4)),
        ("a.mha", {"ElementToIntensityFunctionSlope": "1.0", "ElementToIntensityFunctionOffset": "0"}, (1, 1, 1)),
        ("a.mha", {"DistanceUnits": "mm"}, (1, 1, 1)),
    ],
)
def test_sizes_may_be_written_in_several_ways(tmp_path, name, fields, spacing):
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
def test_what_simpleitk_writes_is_read(tmp_path, name, shape, vectors, expected):
    """A slice, several volumes and voxels of several channels: NRRD has no space of its own for the first two."""
    image = sitk.GetImageFromArray(np.ones(shape, np.int16), isVector=vectors)
    image.SetSpacing([1, 2, 4, 8][: image.GetDimension()])
    sitk.WriteImage(image, str(tmp_path / name))
    scan = read_scan(tmp_path / name)
    assert scan.array.shape == expected
    assert scan.geometry.spacing == ((1, 2, 1) if len(shape) == 2 else (1, 2, 4))


@pytest.mark.parametrize(("name", "key"), [("a.mha", "ElementDataFile"), ("a.nrrd", "data file")])
def test_a_header_that_names_itself_as_its_data_is_refused(tmp_path, name, key):
    path = write(tmp_path, name)
    with_field(path, key, f"./{name}")
    with pytest.raises(DataError, match="is not a file that could hold its voxels"):
        read_scan(path)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_endings_may_be_in_capitals(tmp_path, name):
    path = write(tmp_path, name)
    path = path.rename(path.with_suffix(path.suffix.upper()))
    np.testing.assert_array_equal(read_scan(path, None).array[0], VALUES.transpose(2, 1, 0))


def test_the_many_lines_of_a_segmentation_are_read(tmp_path):
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
def test_compressed_metaimages_are_read_in_both_byte_orders(tmp_path, kind, order):
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
def test_compressed_voxels_are_never_read_as_zeros(tmp_path, change, message):
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


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_damaged_headers_never_end_the_process(tmp_path, name):
    path = write(tmp_path, name)
    done = subprocess.run([sys.executable, "-c", MUTATIONS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-2000:]
