"""Records of the cases of an imported dataset, which keep cases of earlier imports and other exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files.atomic import write_json
from segbundle.files.documents import read_json, validate
from segbundle.files.pseudonyms import Pseudonyms
from segbundle.io.segments import find_class, normalized


@dataclass(frozen=True)
class SourceSeries:
    """Origin of a case, as salted hashes.

    Attributes:
        export: hash of the folder of the export.
        series: hash of the SeriesInstanceUID, with the label of the volume.
        content: hash of the SOPInstanceUIDs.

    Example:
        >>> SourceSeries("a1", "b2", "c3").series
        'b2'
    """

    export: str
    series: str
    content: str


@dataclass(frozen=True)
class CaseRecord:
    """Record of an imported case.

    Attributes:
        key: hash of the source files and classes; a case with another key is written again.
        source: origin of the case.
        modality: modality, such as `CT`.
        labeled: whether the case has a label map.
        classes: label value of each annotated class by its name.
        patient: pseudonym of the patient; may be empty.
        algorithms: algorithm types of the segments.

    Example:
        >>> record = CaseRecord("d4", SourceSeries("a1", "b2", "c3"), "CT", True, {"liver": 1}, "", ())
        >>> record.fits(["background", "liver"]), record.fits(["background", "kidney", "liver"])
        (True, False)
    """

    key: str
    source: SourceSeries
    modality: str
    labeled: bool
    classes: Mapping[str, int]
    patient: str
    algorithms: tuple[str, ...]

    def fits(self, class_names: Sequence[str]) -> bool:
        """Return whether the label values of the case are those of class names.

        Args:
            class_names: class names of the dataset, background first.
        """
        return all(
            value < len(class_names) and normalized(class_names[value]) == normalized(name)
            for name, value in self.classes.items()
        )

    def is_covered(self, labeled: bool, class_names: Iterable[str]) -> bool:
        """Return whether another version of the case has all annotated classes of this one.

        Args:
            labeled: whether the other version has a label map.
            class_names: annotated classes of the other version.
        """
        others = list(class_names)
        return (labeled or not self.labeled) and all(find_class(name, others) is not None for name in self.classes)


@dataclass
class ImportRecords:
    """Records of an imported dataset.

    Attributes:
        salt: check value of the salt with which sources and patients were hashed; empty (default) without cases.
        class_names: class names of the dataset, background first (default none).
        cases: records by the name of the case (default none).

    Example:
        >>> ImportRecords().cases
        {}
    """

    salt: str = ""
    class_names: list[str] = field(default_factory=list)
    cases: dict[str, CaseRecord] = field(default_factory=dict)

    def renamed(self, sources: Mapping[str, SourceSeries]) -> dict[str, str]:
        """Return the new name of each case whose series has another name in this import, by the old name.

        Args:
            sources: origin of each case that is imported now, by its name.
        """
        names = {(source.series, source.content): name for name, source in sources.items()}
        of_series = {source.series: name for name, source in sources.items()}
        new = Counter(source.series for source in sources.values())
        old = Counter(record.source.series for record in self.cases.values())
        found = {}
        for case, record in self.cases.items():
            series = record.source.series
            name = names.get((series, record.source.content))
            if name is None and new[series] == old[series] == 1:
                name = of_series[series]
            if name is not None and case not in sources:
                found[case] = name
        return found

    def write(self, path: Path) -> None:
        """Write the records.

        Args:
            path: path of the file.

        Raises:
            OutputError: the file cannot be written.
        """
        cases = {case: asdict(record) for case, record in sorted(self.cases.items())}
        write_json(path, {"salt": self.salt, "class_names": self.class_names, "cases": cases})


def read_records(path: Path, patients: Pseudonyms) -> ImportRecords:
    """Read the records of a dataset; return empty records if there is no file.

    Args:
        path: path of the file.
        patients: pseudonyms with the salt of the dataset.

    Raises:
        DataError: the file is damaged.
        OutputError: an earlier version of segbundle wrote the file, or the salt is not that of the records.

    Example:
        >>> read_records(Path("/nowhere/records.json"), Pseudonyms(Path("/nowhere"))).cases  # doctest: +SKIP
        {}
    """
    salt = patients.digest("salt of the dataset")[:16]
    if not path.is_file():
        return ImportRecords(salt)
    content: Any = read_json(path)
    if not isinstance(content, dict) or "cases" not in content:
        raise OutputError(
            f"{path}: was written by an earlier version of segbundle. Choose another folder for the dataset."
        )
    records: ImportRecords = validate(content, ImportRecords, str(path))
    if records.cases and records.salt != salt:
        raise OutputError(
            f"{path.parent}: its salt was deleted or replaced, so the imported cases cannot be recognized. Restore "
            ".segbundle-salt, or choose another folder for the dataset."
        )
    records.salt = salt
    return records
