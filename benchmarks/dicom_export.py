"""Time and memory of listing a large DICOM export with `segbundle check`.

    python benchmarks/dicom_export.py --files 100000 --layouts flat series archive

Each series has 200 slices of 8x8 voxels. `flat` puts all files into one folder, `series` each series into its own
folder, and `archive` each file into one of 256 folders by a hash of its name, as archives store them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SLICES = 200
SERIES, INSTANCE, HEIGHT = "1.2.826.0.1.1000000", "1.2.826.0.2.100000000", "00000000"


def template() -> bytes:
    """Return a CT slice whose UIDs and position can be replaced by text of the same length."""
    data: Any = Dataset()
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = INSTANCE
    data.file_meta = meta
    data.SeriesInstanceUID, data.Modality, data.SeriesDescription = SERIES, "CT", "thorax"
    data.ImagePositionPatient, data.ImageOrientationPatient = ["0", "0", HEIGHT], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [1, 1], 1, 1
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = np.zeros((8, 8), np.int16).tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_export(folder: Path, files: int, layout: str) -> None:
    """Write the files of an export."""
    pattern = re.compile(b"|".join(re.escape(text.encode()) for text in (SERIES, INSTANCE, HEIGHT)))
    parts = re.split(b"(" + pattern.pattern + b")", template())
    for number in range(files):
        series, height = divmod(number, SLICES)
        texts = (f"{SERIES[:-6]}{series:06d}", f"{INSTANCE[:-8]}{number:08d}", f"{height:08d}")
        replaced = {old.encode(): new.encode() for old, new in zip((SERIES, INSTANCE, HEIGHT), texts, strict=True)}
        name = f"IM{number:06d}"
        bucket = {"flat": "", "series": f"SE{series:04d}", "archive": hashlib.sha256(name.encode()).hexdigest()[:2]}
        path = folder / bucket[layout] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(replaced.get(part, part) for part in parts))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--layouts", nargs="+", default=["flat", "series", "archive"])
    args = parser.parse_args()
    print("| layout | files | series | seconds | ms per file | peak memory, MB |\n|---|---:|---:|---:|---:|---:|")
    program = str(Path(sys.executable).parent / "segbundle")
    for layout in args.layouts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "export"
            write_export(folder, args.files, layout)
            started = time.monotonic()
            done = subprocess.run([program, "check", str(folder)], capture_output=True, text=True, check=False)
            seconds = time.monotonic() - started
            listed = sum("CT  " in line for line in done.stdout.splitlines())
            assert listed == -(-args.files // SLICES), done.stdout[-2000:] + done.stderr[-2000:]
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
            per_file = 1e3 * seconds / args.files
            print(f"| {layout} | {args.files} | {listed} | {seconds:.0f} | {per_file:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
