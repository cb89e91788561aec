"""Make a dataset in the layout of the Decathlon from a DICOM export with segmentations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.datasets.case_pseudonyms import hide_names_below
from segbundle.datasets.earlier_cases import EarlierCases
from segbundle.datasets.export_search import UNREADABLE, LeftOutError, Volume, search_export
from segbundle.datasets.folders import escaped
from segbundle.datasets.import_records import CaseRecord, SourceSeries
from segbundle.datasets.import_rows import COLUMNS, ImportResult, ImportRow, dataset_description, worst_errors
from segbundle.datasets.segment_classes import chosen_segments, extended_names, union_of_names, values_of
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
_DESCRIPTION = "dataset.json"
_RECORDS = ".segbundle-import.json"
"""File with the record of each imported case."""
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs")


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
    earlier = EarlierCases(folder, _RECORDS, export, patients, remove_missing)
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
        earlier: EarlierCases,
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
        errors = worst_errors([(row.case, row.error) for row in rows])
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
            write_json(root / _DESCRIPTION, dataset_description(root.name, rows, self.class_names))
        else:
            self.folder.remove([root / _DESCRIPTION])
        write_csv(root / TABLE, COLUMNS, [row.cells for row in rows])
        self.folder.remove(sorted(written - needed))
        self.records.write(self.earlier.path)
        return rows
