"""Where the files of a run's cases are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from segbundle.errors import OutputError


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's files are.

    Attributes:
        image: the scan; a list of files if channels have one each.
        reference: the label map, as it was annotated, if there is one.
        prediction: the label map that was written.
        ignore_label: value of unknown voxels in the reference, if it has any.
    """

    image: str | list[str]
    reference: str | None
    prediction: str
    ignore_label: int | None = None

    @property
    def first_image(self) -> str:
        """The scan, or its first channel."""
        return self.image if isinstance(self.image, str) else self.image[0]

    @property
    def gone(self) -> str | None:
        """The scan or the reference, if it is no longer there."""
        given = [self.first_image, *([] if self.reference is None else [self.reference])]
        return next((path for path in given if not is_there(path)), None)

    def moved_to(self, dataset_dir: str | Path | None) -> CaseFiles:
        """The same where the dataset is now: files whose folder and name are found in it are taken from there.

        Of a scan without a reference, which it could be taken for, the name is enough.
        """
        if dataset_dir is None:
            return self
        folder, image, least = Path(dataset_dir), self.image, 1 if self.reference is None else 2
        image = (
            _found_in(folder, image, least)
            if isinstance(image, str)
            else [_found_in(folder, one, least) for one in image]
        )
        reference = None if self.reference is None else _found_in(folder, self.reference, least)
        return replace(self, image=image, reference=reference)


def is_there(path: str | Path) -> bool:
    """Return whether a file or a folder exists; a path that no file system could hold does not."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _found_in(folder: Path, given: str, least: int) -> str:
    """A path below a folder with the same end, of at least so many parts, or else the path that was given."""
    parts = PurePath(given).parts
    ends = [parts[-count:] for count in range(len(parts) - 1, least - 1, -1)]
    return next((str(place) for end in ends if is_there(place := folder.joinpath(*end))), given)


def refuse_if_moved(files: Mapping[str, CaseFiles], dataset_dir: str | Path | None, every: bool = False) -> None:
    """Raise an error if scans or references are not where they should be, before a page is replaced by an emptier one.

    Args:
        files: of the cases.
        dataset_dir: where they should be; None for where they were.
        every: only if all of them are gone.

    Raises:
        OutputError: they are not there.
    """
    gone = [path for one in files.values() if (path := one.gone)]
    if not gone or (every and len(gone) < len(files)):
        return
    if dataset_dir is None:
        raise OutputError(f"{gone[0]}: is no longer there; tell where the scans are now with --dataset_dir.")
    name = "/".join(PurePath(gone[0]).parts[-2:])
    raise OutputError(f"{dataset_dir}: holds no {name}; give the folder that the scans of the run are in now.")
