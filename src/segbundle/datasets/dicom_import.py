"""Make a dataset in the layout of the Decathlon from a DICOM export with segmentations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segbundle.datasets.case_pseudonyms import hide_names_below
from segbundle.datasets.export_search import UNREADABLE, LeftOutError, Volume, identity_of, search_export
from segbundle.datasets.folders import escaped, some
from segbundle.datasets.import_records import CaseRecord, SourceSeries, read_records
from segbundle.datasets.segment_classes import NOT_CHOSEN, chosen_segments, extended_names, union_of_names, values_of
from segbundle.errors import DataError, OutputError, last_line
from segbundle.files.atomic import lock_folder, make_folder, remove_partial, write_csv, write_json
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
OTHER_EXPORT, _EARLIER_IMPORT = "another export", "an earlier import"
COLUMNS = ("case", "status", "reason", "modality", "size (voxels)", "spacing (mm)", "classes", "algorithm")
_DESCRIPTION = "dataset.json"
_RECORDS = ".segbundle-import.json"
"""File with the record of each imported case."""
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
        error: reason why the volume was left out, or why its earlier version was kept; None (default) for a case.
        kept: origin of a case that an earlier import wrote and this import did not: `an earlier import` of this export,
            or `another export`; empty (default) for other rows.

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
    kept: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Row of `import.csv`: the text of each of the columns `COLUMNS`; empty text for unknown values."""
        size = spacing = ""
        if self.geometry is not None:
            size = " x ".join(map(str, self.geometry.shape))
            spacing = " x ".join(f"{value:.3g}" for value in self.geometry.spacing)
        kept = f"kept from {self.kept}" if self.kept else ""
        reason = ": ".join(filter(None, (kept, "" if self.error is None else self.error.reason)))
        algorithms = ", ".join(self.algorithms)
        return self.case, self.status, reason, self.modality, size, spacing, ", ".join(self.classes), algorithms


@dataclass(frozen=True)
class ImportResult:
    """Result of an import.

    Attributes:
        rows: a row for each volume and each kept case, sorted by case.
        class_names: class names of the dataset, background first.
        not_chosen: for each name of a segment that is not a chosen class, the number of volumes with such a segment;
            empty if no class names were chosen.
        replaced: number of cases of other exports that were replaced by the same series of this export (default 0).
        removed: number of cases of earlier imports that were removed (default 0).

    Example:
        >>> ImportResult([], ["background", "liver"], Counter()).problems
        []
    """

    rows: Sequence[ImportRow]
    class_names: Sequence[str]
    not_chosen: Counter[str]
    replaced: int = 0
    removed: int = 0

    @property
    def problems(self) -> list[LeftOutError]:
        """Problems because of which volumes were left out, or earlier versions of cases were kept."""
        return [row.error for row in self.rows if row.error is not None and row.error.is_problem]


def import_dataset(
    export: str | Path,
    dataset: str | Path,
    series: Sequence[str] = (),
    class_names: Sequence[str] = (),
    unlabeled: bool = False,
    case_names: str = "hash",
    allow_uneven: bool = False,
    remove_missing: bool = False,
) -> ImportResult:
    """Make a dataset in the layout of the Decathlon from a DICOM export, or add to an earlier import.

    Each volume to which a DICOM SEG or RTSTRUCT refers becomes a training case: `imagesTr/<case>.nii.gz`,
    `labelsTr/<case>.nii.gz`, and an entry of `dataset.json` with the names of the classes that have a segment
    (`annotated`) and a pseudonym of the patient (`patient`), which keeps the cases of a patient in one fold.
    `import.csv` lists all volumes and cases. Cases whose files are complete are skipped.

    Cases of earlier imports stay in the dataset: those of other exports, and those of this export that are not found,
    not selected or not readable. A case of another export is only replaced by the same series with all of its classes.
    Label values stay the same if the export grows.

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
        remove_missing: whether to remove cases of earlier imports of this export that are not imported now (default
            False). Cases of volumes with problems are kept.

    Returns:
        the class names of the dataset, and a row for each volume of the export, see `ImportResult`

    Raises:
        DataError: the export contains no DICOM files, or there are too many classes.
        OutputError: a file cannot be written, segbundle did not write the existing file, both folders are the same, the
            chosen class names do not fit cases of earlier imports, or the salt of the dataset was deleted.

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
    if unlabeled:
        errors = {place: error for place, error in errors.items() if error.reason != "no segmentation"}
    earlier = _Earlier(folder, export, patients, remove_missing)
    kept = earlier.kept(volumes, errors)
    names = list(class_names)
    if names:
        earlier.check_names(kept, names)
    else:
        names = extended_names(earlier.records.class_names, union_of_names(segments.values()), keep=bool(kept))
    importer = _Importer(folder, names, segments, patients, salt, allow_uneven, earlier)
    rows = []
    for volume in counted(volumes, len(volumes), "importing", "volume", free_lines=3):
        rows.append(importer.add(volume, errors.get(volume.place)))
    rows = importer.finish(rows)
    not_chosen = _not_chosen(volumes, names) if class_names else Counter[str]()
    return ImportResult(rows, names, not_chosen, importer.replaced, importer.removed)


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


def _worst(errors: Sequence[tuple[str, LeftOutError | None]]) -> dict[str, LeftOutError]:
    """Return an error for each case with errors, preferably a problem."""
    found = dict[str, LeftOutError]()
    for case, error in errors:
        if error is not None and (case not in found or (error.is_problem and not found[case].is_problem)):
            found[case] = error
    return found


class _Earlier:
    """Cases of earlier imports into a dataset."""

    def __init__(self, folder: OutputFolder, export: Path, patients: Pseudonyms, remove_missing: bool) -> None:
        self.folder, self.patients, self.remove_missing = folder, patients, remove_missing
        self.path = folder.folder / _RECORDS
        self.records = read_records(self.path, patients)
        self.export = self._hash("export", os.path.realpath(export))
        self.renamed: dict[str, str] = {}

    def _hash(self, kind: str, text: str) -> str:
        return self.patients.digest(f"{kind} {text}")[:16]

    def source(self, volume: Volume) -> SourceSeries:
        """Return the origin of a volume."""
        series = identity_of(volume)
        if volume.series is None or not volume.series.uid:
            series = f"{series}/{volume.content}"
        return SourceSeries(self.export, self._hash("series", series), self._hash("content", volume.content))

    def kept(self, volumes: Sequence[Volume], errors: Mapping[str, LeftOutError]) -> dict[str, CaseRecord]:
        """Return the cases that stay in the dataset, unless volumes without an error cannot be written."""
        sources = {volume.case: self.source(volume) for volume in volumes if volume.place not in errors}
        found = _worst([(volume.case, errors.get(volume.place)) for volume in volumes])
        self.renamed = self.records.renamed(sources)
        if any(volume.series is None and volume.error and volume.error.reason == UNREADABLE for volume in volumes):
            self.remove_missing = False  # the series of these files is not known
        return {
            case: record
            for case, record in self.records.cases.items()
            if case not in sources and case not in self.renamed and not self.is_obsolete(case, found.get(case))
        }

    def is_obsolete(self, case: str, error: LeftOutError | None) -> bool:
        """Return whether to remove a case that is not imported now, because of an error or because it was not found."""
        if self.records.cases[case].source.export != self.export:
            return False
        if error is not None and error.reason == NOT_CHOSEN:
            return True
        return self.remove_missing and (error is None or not error.is_problem)

    def check_names(self, kept: Mapping[str, CaseRecord], class_names: Sequence[str]) -> None:
        """Raise an error if the label maps of kept cases have other label values than the chosen class names."""
        others = [case for case, record in kept.items() if not record.fits(class_names)]
        if others:
            raise OutputError(
                f"{self.folder.folder}: {len(others)} cases of earlier imports (for instance {others[0]}) have other "
                f"classes than --class_names. Begin with [{', '.join(self.records.class_names)}], or choose another "
                "folder for the dataset."
            )

    def conflict(self, volume: Volume, labeled: bool, classes: Sequence[str]) -> LeftOutError | None:
        """Return why an earlier case with the name of a volume must not be replaced by it; None if it may."""
        record, source = self.records.cases.get(volume.case), self.source(volume)
        if record is None or (self.remove_missing and record.source.export == self.export):
            return None
        if source.series != record.source.series and source.content != record.source.content:
            return LeftOutError(
                "name of another case",
                f"{volume.place}: the dataset has a case of this name from another series. Use --case_names hash, or "
                "choose another folder for the dataset.",
            )
        if record.labeled and not labeled:
            return LeftOutError("no segmentation", is_problem=False)
        if record.source.export == self.export or record.is_covered(labeled, classes):
            return None
        missing = [name for name in record.classes if find_class(name, classes) is None]
        return LeftOutError(
            "segmentation without classes of the case",
            f"{volume.place}: has no segment of {some(missing)}, which the case from another export has. Put all "
            "segmentations of a series into one export.",
            is_problem=any(find_class(name, list(record.classes)) is None for name in classes),
        )

    def row(
        self, case: str, class_names: Sequence[str], place: str = "", error: LeftOutError | None = None
    ) -> ImportRow:
        """Return the row of a kept case, which is left out if its label values are not those of the class names."""
        record = self.records.cases[case]
        other = record.source.export != self.export
        if not record.fits(class_names):
            error = LeftOutError(
                "other label values",
                f"its earlier label map has other label values, so it is not in {_DESCRIPTION}. Its files are kept. "
                "Import its series again.",
            )
            return ImportRow(case, "left out", place, record.modality, error=error)
        labeled, geometry = record.labeled, None
        with suppress(DataError):
            geometry = read_geometry(self.folder.folder / ("imagesTr" if labeled else "imagesTs") / f"{case}.nii.gz")
        return ImportRow(
            case, "training" if labeled else "unlabeled", place, record.modality, geometry,
            tuple(class_names[value] for value in sorted(record.classes.values())), record.patient,
            record.algorithms, error, OTHER_EXPORT if other else _EARLIER_IMPORT,
        )  # fmt: skip


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
        earlier: _Earlier,
    ) -> None:
        self.folder, self.class_names, self.segments, self.salt = folder, list(class_names), segments, salt
        self.patients, self.allow_uneven, self.earlier = patients, allow_uneven, earlier
        self.records, self.sources = earlier.records, dict[str, SourceSeries]()
        self.replaced = self.removed = 0
        self.extensions = label_extensions(class_table(class_names)) if len(class_names) > 1 else []

    def add(self, volume: Volume, error: LeftOutError | None) -> ImportRow:
        """Write the files of a volume, unless it is left out or they are complete, and return its row."""
        geometry, classes, labeled = None, self._classes(volume), volume.place in self.segments
        patient, kinds = self._patient(volume), self._algorithms(volume)
        if error is None:
            error = self.earlier.conflict(volume, labeled, classes)
        if error is None:
            try:
                geometry = self._read_geometry(volume)
                self._write(volume, geometry, classes, patient, kinds)
            except LeftOutError as found:
                error = found
        if error is not None:
            return ImportRow(volume.case, "left out", volume.place, volume.modality, geometry, error=error)
        self.sources[volume.case] = self.earlier.source(volume)
        status = "training" if labeled else "unlabeled"
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
            raise LeftOutError(UNREADABLE, str(error)) from error

    def _paths(self, case: str, labeled: bool) -> list[Path]:
        folders = ("imagesTr", "labelsTr") if labeled else ("imagesTs",)
        return [self.folder.folder / name / f"{case}.nii.gz" for name in folders]

    def _write(
        self, volume: Volume, geometry: Geometry, classes: tuple[str, ...], patient: str, algorithms: tuple[str, ...]
    ) -> None:
        labeled = volume.place in self.segments
        paths, key = self._paths(volume.case, labeled), self._key(volume, labeled)
        values = {name: self.class_names.index(name) for name in classes}
        source = self.earlier.source(volume)
        record = CaseRecord(key, source, volume.modality, labeled, values, patient, algorithms)
        earlier = self.records.cases.get(volume.case)
        other = earlier is not None and earlier.source.export != source.export
        if earlier is not None and earlier.key == key and all(map(self.folder.wrote, paths)):
            self.records.cases[volume.case] = record
            return
        self.folder.refuse_foreign(paths)
        labels = self._labels(volume, geometry) if labeled else None
        try:
            write_scan(volume.path, paths[0], self.allow_uneven)
        except DataError as error:
            raise LeftOutError(UNREADABLE, str(error)) from error
        if labels is not None:
            write_segmentation(labels, geometry, paths[1], self.extensions)
        self.replaced += other
        self.records.cases[volume.case], self.records.class_names = record, self.class_names
        self.records.write(self.earlier.path)

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

    def finish(self, rows: Sequence[ImportRow]) -> list[ImportRow]:
        """Write `dataset.json` and `import.csv`, remove files of obsolete cases, and return the rows of all cases."""
        records, root = self.records.cases, self.folder.folder
        written = {path for case in records for labeled in (True, False) for path in self._paths(case, labeled)}
        errors = _worst([(row.case, row.error) for row in rows])
        for case, record in list(records.items()):
            if case in self.sources:
                continue
            new = records.get(self.earlier.renamed.get(case, ""))
            is_renamed = new is not None and (
                record.source.export == self.earlier.export or record.is_covered(new.labeled, new.classes)
            )
            if is_renamed or self.earlier.is_obsolete(case, errors.get(case)):
                self.removed += not is_renamed
                del records[case]
            elif not all(path.is_file() for path in self._paths(case, record.labeled)):  # removed by the user
                written -= {path for labeled in (True, False) for path in self._paths(case, labeled)}
                del records[case]
        kept = {case: errors.get(case) for case in records if case not in self.sources}
        places = {row.case: row.place for row in rows if row.case in kept and row.error is kept[row.case]}
        rows = [row for row in rows if row.case not in places or row.error is not kept[row.case]]
        rows += [self.earlier.row(case, self.class_names, places.get(case, ""), kept[case]) for case in kept]
        rows.sort(key=lambda row: (row.case, row.place))
        needed = {path for case, record in records.items() for path in self._paths(case, record.labeled)}
        cases = [row for row in rows if row.status != "left out"]
        self.records.class_names = self.class_names
        if cases:
            write_json(root / _DESCRIPTION, _description(root.name, rows, self.class_names))
        else:
            self.folder.remove([root / _DESCRIPTION])
        write_csv(root / TABLE, COLUMNS, [row.cells for row in rows])
        self.folder.remove(sorted(written - needed))
        self.records.write(self.earlier.path)
        return rows


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
    modalities = sorted({row.modality for row in rows if row.status != "left out"})
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
