"""Make a dataset in the layout of the Decathlon from a DICOM export with segmentations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segbundle.datasets.case_pseudonyms import hide_names_below
from segbundle.datasets.export_search import LeftOutError, Volume, search_export
from segbundle.datasets.folders import escaped
from segbundle.datasets.segment_classes import chosen_segments, union_of_names, values_of
from segbundle.errors import DataError, OutputError, last_line
from segbundle.files.atomic import lock_folder, make_folder, remove_partial, write_csv, write_json
from segbundle.files.documents import read_json
from segbundle.files.hashing import hash_values
from segbundle.files.output_folders import OutputFolder, claim
from segbundle.files.pseudonyms import Pseudonyms
from segbundle.io.geometry import Geometry
from segbundle.io.scan_writing import write_scan
from segbundle.io.scans import read_geometry, write_segmentation
from segbundle.io.segment_files import add_segments
from segbundle.io.segments import LabelGrid, find_class
from segbundle.io.structure_sets import DamagedContourError
from segbundle.masking import hide
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.nifti_labels import label_extensions
from segbundle.terminal import counted

TABLE = "import.csv"
COLUMNS = ("case", "status", "reason", "modality", "size (voxels)", "spacing (mm)", "classes", "algorithm")
_DESCRIPTION = "dataset.json"
_RECORDS = ".segbundle-import.json"
"""File with a hash of the sources and classes of each imported case."""
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs")


@dataclass(frozen=True)
class ImportRow:
    """Result for a volume of the export.

    Attributes:
        case: name of the case.
        status: `training`, `unlabeled` or `left out`.
        place: path of the volume below the folder of the export; it is not written to files.
        modality: modality, such as `CT`; empty if unknown.
        geometry: geometry of the volume; None (default) if unknown.
        classes: annotated classes (default none).
        patient: pseudonym of the patient, see `import_dataset`; empty (default) if unknown.
        algorithms: algorithm types of the segments that are classes, such as `MANUAL` (default none).
        error: reason why the volume was left out; None (default) for a case.

    Example:
        >>> ImportRow("case_1", "left out", "p1/scout", "CT", error=LeftOutError("no segmentation")).cells[2]
        'no segmentation'
    """

    case: str
    status: str
    place: str
    modality: str
    geometry: Geometry | None = None
    classes: tuple[str, ...] = ()
    patient: str = ""
    algorithms: tuple[str, ...] = ()
    error: LeftOutError | None = field(default=None, compare=False)

    @property
    def cells(self) -> tuple[str, ...]:
        """Row of `import.csv`: the text of each of the columns `COLUMNS`; empty text for unknown values."""
        size = spacing = ""
        if self.geometry is not None:
            size = " x ".join(map(str, self.geometry.shape))
            spacing = " x ".join(f"{value:.3g}" for value in self.geometry.spacing)
        reason = "" if self.error is None else self.error.reason
        algorithms = ", ".join(self.algorithms)
        return self.case, self.status, reason, self.modality, size, spacing, ", ".join(self.classes), algorithms


@dataclass(frozen=True)
class ImportResult:
    """Result of an import.

    Attributes:
        rows: a row for each volume, sorted by case.
        class_names: class names of the dataset, background first.
        not_chosen: for each name of a segment that is not a chosen class, the number of volumes with such a segment;
            empty if no class names were chosen.

    Example:
        >>> ImportResult([], ["background", "liver"], Counter()).problems
        []
    """

    rows: Sequence[ImportRow]
    class_names: Sequence[str]
    not_chosen: Counter[str]

    @property
    def problems(self) -> list[LeftOutError]:
        """Errors of the volumes that were left out because of a problem on which the user should act."""
        return [row.error for row in self.rows if row.error is not None and row.error.is_problem]


def import_dataset(
    export: str | Path,
    dataset: str | Path,
    series: Sequence[str] = (),
    class_names: Sequence[str] = (),
    unlabeled: bool = False,
    case_names: str = "hash",
    allow_uneven: bool = False,
) -> ImportResult:
    """Make a dataset in the layout of the Decathlon from a DICOM export, or continue a stopped import.

    Each volume to which a DICOM SEG or RTSTRUCT refers becomes a training case: `imagesTr/<case>.nii.gz`,
    `labelsTr/<case>.nii.gz`, and an entry of `dataset.json` with the names of the classes that have a segment
    (`annotated`) and a pseudonym of the patient (`patient`), which keeps the cases of a patient in one fold.
    `import.csv` lists all volumes. Cases whose files are complete are skipped.

    The pseudonym is a hash of the PatientID, or else of the StudyInstanceUID, with the random salt of the dataset's
    folder.

    Args:
        export: folder of the export; its subfolders are searched.
        dataset: folder of the dataset.
        series: see `selected` of `scans_in_folders`. Default: all series with the modality CT, MR or PT.
        class_names: class names of the dataset, background first; segments with other names are not imported. Default:
            the names of all segments.
        unlabeled: whether volumes without segmentation become test cases in `imagesTs` (default False).
        case_names: `hash` (default), `path` or `pseudonym`, see `search_export`. With `pseudonym`, names of files and
            folders are also hidden in later messages.
        allow_uneven: see `segbundle.io.scans.read_scan` (default False). Label maps are resampled by nearest neighbor.

    Returns:
        the class names of the dataset, and a row for each volume of the export, see `ImportResult`

    Raises:
        DataError: the export contains no DICOM files, or there are too many classes.
        OutputError: a file cannot be written, an existing file was not written by segbundle, or both folders are the
            same.

    Example:
        >>> import_dataset("/data/export", "datasets/liver")  # doctest: +SKIP
    """
    if os.path.realpath(export) == os.path.realpath(dataset):
        raise OutputError(f"{dataset}: is the export. Choose another folder for the dataset.")
    export, folder = Path(export), _claimed(dataset)
    patients = Pseudonyms(folder.folder)
    salt = patients if case_names == "pseudonym" else None
    if salt is not None:
        hide_names_below([export], dataset)
    volumes = search_export(export, series, case_names, salt)
    if salt is not None:
        hide([], cases={str(volume.path): volume.case for volume in volumes})
    segments, errors = _segments(volumes, class_names)
    names = list(class_names) or union_of_names(segments.values())
    importer = _Importer(folder, names, segments, patients, salt, allow_uneven)
    rows = []
    for volume in counted(volumes, len(volumes), "importing", "volume", free_lines=3):
        error = errors.get(volume.place)
        if unlabeled and error is not None and error.reason == "no segmentation":
            error = None
        rows.append(importer.add(volume, error))
    importer.finish(rows)
    return ImportResult(rows, names, _not_chosen(volumes, names) if class_names else Counter())


def _claimed(dataset: str | Path) -> OutputFolder:
    """Return the folder of the dataset, locked, and checked for foreign files."""
    folder = claim(dataset)
    folder.refuse_links(_FOLDERS)
    folder.refuse_foreign([_DESCRIPTION, TABLE, _RECORDS])
    make_folder(folder.folder)
    lock_folder(folder.folder)
    for name in (".", *_FOLDERS):
        remove_partial(folder.folder / name)
    return folder


def _segments(
    volumes: Sequence[Volume], class_names: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, LeftOutError]]:
    """Return the names of the segments of each usable volume, or why it cannot become a case, by its place."""
    found, errors = dict[str, list[str]](), dict[str, LeftOutError]()
    for volume in volumes:
        try:
            if volume.error is not None:
                raise volume.error
            found[volume.place] = [name for _, _, name in chosen_segments(volume.segments, class_names)]
        except LeftOutError as error:
            errors[volume.place] = error
    return found, errors


def _not_chosen(volumes: Sequence[Volume], class_names: Sequence[str]) -> Counter[str]:
    return Counter(
        name
        for volume in volumes
        for name in {name.strip() for file in volume.segments for name in file.names.values()}
        if find_class(name, class_names) is None
    )


class _Importer:
    """Writer of the cases of a dataset."""

    def __init__(
        self,
        folder: OutputFolder,
        class_names: Sequence[str],
        segments: dict[str, list[str]],
        patients: Pseudonyms,
        salt: Pseudonyms | None,
        allow_uneven: bool,
    ) -> None:
        self.folder, self.class_names, self.segments, self.salt = folder, list(class_names), segments, salt
        self.patients, self.allow_uneven = patients, allow_uneven
        path = folder.folder / _RECORDS
        content: Any = read_json(path) if path.is_file() else {}
        self.records: dict[str, str] = content if isinstance(content, dict) else {}
        self.extensions = label_extensions(class_table(class_names)) if len(class_names) > 1 else []

    def add(self, volume: Volume, error: LeftOutError | None) -> ImportRow:
        """Write the files of a volume, unless it is left out or they are complete, and return its row."""
        geometry, classes = None, self._classes(volume)
        if error is None:
            try:
                geometry = self._read_geometry(volume)
                self._write(volume, geometry)
            except LeftOutError as found:
                error = found
        if error is not None:
            return ImportRow(volume.case, "left out", volume.place, volume.modality, geometry, error=error)
        status = "training" if volume.place in self.segments else "unlabeled"
        patient, kinds = self._patient(volume), self._algorithms(volume)
        return ImportRow(volume.case, status, volume.place, volume.modality, geometry, classes, patient, kinds)

    def _algorithms(self, volume: Volume) -> tuple[str, ...]:
        """Return the sorted algorithm types of the segments of a volume that are classes."""
        found = {
            escaped(file.algorithms[number])
            for file in volume.segments
            for number in values_of(file.names, self.class_names)
            if number in file.algorithms
        }
        return tuple(sorted(found))

    def _patient(self, volume: Volume) -> str:
        """Return the pseudonym of the patient of a volume; empty without PatientID and StudyInstanceUID."""
        from pydicom import dcmread

        files = volume.series.files if volume.series is not None else ()
        for name in ("PatientID", "StudyInstanceUID") if files else ():
            header: Any = dcmread(files[0], stop_before_pixels=True, force=True, specific_tags=[name])
            if identity := str(header.get(name) or "").strip():
                return f"patient_{self.patients.digest(f'{name} {identity}')[:12]}"
        return ""

    def _classes(self, volume: Volume) -> tuple[str, ...]:
        """Return the annotated classes of a volume, in the order of their label values."""
        values = {find_class(name, self.class_names) for name in self.segments.get(volume.place, ())}
        return tuple(name for value, name in enumerate(self.class_names) if value in values)

    def _read_geometry(self, volume: Volume) -> Geometry:
        try:
            return read_geometry(volume.path, self.allow_uneven)
        except DataError as error:
            raise LeftOutError("series cannot be read", str(error)) from error

    def _paths(self, case: str, labeled: bool) -> list[Path]:
        folders = ("imagesTr", "labelsTr") if labeled else ("imagesTs",)
        return [self.folder.folder / name / f"{case}.nii.gz" for name in folders]

    def _write(self, volume: Volume, geometry: Geometry) -> None:
        labeled = volume.place in self.segments
        paths, key = self._paths(volume.case, labeled), self._key(volume, labeled)
        if self.records.get(volume.case) == key and all(map(self.folder.wrote, paths)):
            return
        self.folder.refuse_foreign(paths)
        labels = self._labels(volume, geometry) if labeled else None
        try:
            write_scan(volume.path, paths[0], self.allow_uneven)
        except DataError as error:
            raise LeftOutError("series cannot be read", str(error)) from error
        if labels is not None:
            write_segmentation(labels, geometry, paths[1], self.extensions)
        self.records[volume.case] = key
        write_json(self.folder.folder / _RECORDS, self.records)

    def _key(self, volume: Volume, labeled: bool) -> str:
        """Return a hash of the contents of a case: names, sizes and dates of the source files, and the classes."""
        files = [*(volume.series.files if volume.series else ()), *(file.path for file in volume.segments)]
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        label = volume.series.volume if volume.series else ""
        found = hash_values([stamps, label, self.class_names, self.segments.get(volume.place), labeled])
        return found if self.salt is None else self.salt.digest(found)

    def _labels(self, volume: Volume, geometry: Geometry) -> Any:
        """Return the label map (X, Y, Z) of all segments of a volume."""
        labels = LabelGrid(volume.path, geometry)
        for file in volume.segments:
            try:
                add_segments(labels, file, values_of(file.names, self.class_names))
            except DamagedContourError as error:
                raise LeftOutError("segmentation cannot be read", str(error)) from error
            except DataError as error:
                raise LeftOutError("geometry mismatch", str(error)) from error
            except Exception as error:  # pydicom raises various exceptions for damaged files
                message = f"{escaped(file.path)}: cannot be read ({last_line(error)}). Export it again."
                raise LeftOutError("segmentation cannot be read", message) from error
        if labels.overlaps:
            raise self._overlap(labels, volume)
        return labels.finish()[0]

    def _overlap(self, labels: LabelGrid, volume: Volume) -> LeftOutError:
        (first, second), count = labels.overlaps.most_common(1)[0]
        pair = f"{self.class_names[first]} and {self.class_names[second]}"
        files = ", ".join(escaped(file.path) for file in volume.segments)
        return LeftOutError(
            f"overlap of {pair}",
            f"{files}: {pair} overlap in {count} voxels, but a voxel has one class. Choose classes that do not overlap "
            "with --class_names.",
        )

    def finish(self, rows: Sequence[ImportRow]) -> None:
        """Write `dataset.json` and `import.csv`, and remove the files of cases that are no longer in the dataset."""
        kept = {path for row in rows if row.error is None for path in self._paths(row.case, row.status == "training")}
        written = {path for case in self.records for labeled in (True, False) for path in self._paths(case, labeled)}
        self.folder.remove(sorted(written - kept))
        cases = {row.case for row in rows if row.error is None}
        records = {case: key for case, key in sorted(self.records.items()) if case in cases}
        root = self.folder.folder
        write_csv(root / TABLE, COLUMNS, [row.cells for row in rows])
        write_json(root / _RECORDS, records)
        if cases:
            write_json(root / _DESCRIPTION, _description(root.name, rows, self.class_names))


def _description(name: str, rows: Sequence[ImportRow], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the content of `dataset.json`."""
    training, test = list[dict[str, Any]](), list[str]()
    for row in rows:
        if row.status == "training":
            entry: dict[str, Any] = {kind: f"./{kind}sTr/{row.case}.nii.gz" for kind in ("image", "label")}
            if len(row.classes) < len(class_names) - 1:
                entry["annotated"] = list(row.classes)
            if row.patient:
                entry["patient"] = row.patient
            training.append(entry)
        elif row.status == "unlabeled":
            test.append(f"./imagesTs/{row.case}.nii.gz")
    modalities = sorted({row.modality for row in rows if row.error is None})
    return {
        "name": name,
        "description": "Imported from DICOM by segbundle",
        "tensorImageSize": "3D",
        "modality": {"0": ", ".join(modalities)},
        "labels": {str(value): name for value, name in enumerate(class_names)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
