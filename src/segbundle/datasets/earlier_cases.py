"""Cases of earlier imports into a dataset: which of them stay, and which may be replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from segbundle.datasets.export_search import UNREADABLE, LeftOutError, Volume, identity_of
from segbundle.datasets.folders import some
from segbundle.datasets.import_records import CaseRecord, SourceSeries, read_records
from segbundle.datasets.import_rows import ImportRow, worst_errors
from segbundle.datasets.segment_classes import NOT_CHOSEN
from segbundle.errors import DataError, OutputError
from segbundle.files.output_folders import OutputFolder
from segbundle.files.pseudonyms import Pseudonyms
from segbundle.io.scans import read_geometry
from segbundle.io.segments import find_class

OTHER_EXPORT, EARLIER_IMPORT = "another export", "an earlier import"


class EarlierCases:
    """Cases of earlier imports into a dataset: which of them stay, and which may be replaced.

    Args:
        folder: folder of the dataset.
        records: name of the file with the records of the cases.
        export: folder of the export.
        patients: pseudonyms with the salt of the dataset.
        remove_missing: whether to remove cases of this export that are not imported now.

    Attributes:
        path: path of the file with the records.
        records: records of the cases.
        export: hash of the folder of the export.
        renamed: new name of each case whose series has another name in this import, by the old name.

    Raises:
        OutputError: the records cannot be used, see `read_records`.

    Example:
        >>> EarlierCases(folder, "records.json", export, patients, False).records.cases  # doctest: +SKIP
        {}
    """

    def __init__(
        self, folder: OutputFolder, records: str, export: Path, patients: Pseudonyms, remove_missing: bool
    ) -> None:
        self.folder, self.patients, self.remove_missing = folder, patients, remove_missing
        self.path = folder.folder / records
        self.records = read_records(self.path, patients)
        self.export = self._hash("export", os.path.realpath(export))
        self.renamed: dict[str, str] = {}

    def _hash(self, kind: str, text: str) -> str:
        return self.patients.digest(f"{kind} {text}")[:16]

    def source(self, volume: Volume) -> SourceSeries:
        """Return the origin of a volume.

        Args:
            volume: volume of the export.
        """
        series = identity_of(volume)
        if volume.series is None or not volume.series.uid:
            series = f"{series}/{volume.content}"
        return SourceSeries(self.export, self._hash("series", series), self._hash("content", volume.content))

    def kept(self, volumes: Sequence[Volume], errors: Mapping[str, LeftOutError]) -> dict[str, CaseRecord]:
        """Return the cases that stay in the dataset, unless volumes without an error cannot be written.

        Args:
            volumes: volumes of the export.
            errors: reason why a volume cannot become a case, by its place.
        """
        sources = {volume.case: self.source(volume) for volume in volumes if volume.place not in errors}
        found = worst_errors([(volume.case, errors.get(volume.place)) for volume in volumes])
        self.renamed = self.records.renamed(sources)
        if any(volume.series is None and volume.error and volume.error.reason == UNREADABLE for volume in volumes):
            self.remove_missing = False  # the series of these files is not known
        return {
            case: record
            for case, record in self.records.cases.items()
            if case not in sources and case not in self.renamed and not self.is_obsolete(case, found.get(case))
        }

    def is_obsolete(self, case: str, error: LeftOutError | None) -> bool:
        """Return whether to remove a case that is not imported now, because of an error or because it was not found.

        Args:
            case: name of the case.
            error: reason why its volume was left out; None if the volume was not found.
        """
        if self.records.cases[case].source.export != self.export:
            return False
        if error is not None and error.reason == NOT_CHOSEN:
            return True
        return self.remove_missing and (error is None or not error.is_problem)

    def check_names(self, kept: Mapping[str, CaseRecord], class_names: Sequence[str]) -> None:
        """Raise an error if the label maps of kept cases have other label values than the chosen class names.

        Args:
            kept: records of the kept cases, by name.
            class_names: chosen class names, background first.

        Raises:
            OutputError: a case has other label values.
        """
        others = [case for case, record in kept.items() if not record.fits(class_names)]
        if others:
            raise OutputError(
                f"{self.folder.folder}: {len(others)} cases of earlier imports (for instance {others[0]}) have other "
                f"classes than --class_names. Begin with [{', '.join(self.records.class_names)}], or choose another "
                "folder for the dataset."
            )

    def conflict(self, volume: Volume, labeled: bool, classes: Sequence[str]) -> LeftOutError | None:
        """Return why an earlier case with the name of a volume must not be replaced by it; None if it may.

        Args:
            volume: volume of the export.
            labeled: whether the volume has a label map.
            classes: annotated classes of the volume.
        """
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
        """Return the row of a kept case, which is left out if its label values are not those of the class names.

        Args:
            case: name of the case.
            class_names: class names of the dataset, background first.
            place: path of its volume below the folder of the export; empty (default) if the volume was not found.
            error: reason why its earlier version was kept. Default: None.
        """
        record = self.records.cases[case]
        other = record.source.export != self.export
        if not record.fits(class_names):
            error = LeftOutError(
                "other label values",
                "its earlier label map has other label values, so it is not in dataset.json. Its files are kept. "
                "Import its series again.",
            )
            return ImportRow(case, "left out", place, record.modality, error=error)
        labeled, geometry = record.labeled, None
        with suppress(DataError):
            geometry = read_geometry(self.folder.folder / ("imagesTr" if labeled else "imagesTs") / f"{case}.nii.gz")
        return ImportRow(
            case, "training" if labeled else "unlabeled", place, record.modality, geometry,
            tuple(class_names[value] for value in sorted(record.classes.values())), record.patient,
            record.algorithms, error, OTHER_EXPORT if other else EARLIER_IMPORT,
        )  # fmt: skip
