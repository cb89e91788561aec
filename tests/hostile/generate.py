"""List of all cases."""

from __future__ import annotations

from hostile import (
    checkpoints,
    command_line,
    crafted_bundles,
    dataset_json,
    file_system,
    imports,
    labels,
    layouts,
    names,
    run_folders,
    scans_dicom,
    scans_itk,
    scans_nifti,
    task_yaml,
)
from hostile.cases import Case, distinct

_MODULES = (
    scans_nifti, scans_itk, scans_dicom, labels, names, file_system, dataset_json, task_yaml, command_line, crafted_bundles, checkpoints,
    run_folders, imports, layouts,
)  # fmt: skip


def all_cases() -> list[Case]:
    return distinct(case for module in _MODULES for case in module.cases())
