"""Cross-validation: a training per fold, every case scored by the model that has not seen it, one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError
from segbundle.reports import print_summary, read_scores, write_scores

_FOLD = "fold_"
Run = Callable[[str, dict[str, Any]], None]


def cross_validate(
    output_dir: str | Path, num_folds: int, class_names: Sequence[str], run: Run, own_cache: bool
) -> dict[str, Any]:
    """Train and evaluate every fold that an earlier call has not finished, then put all scores together.

    `output_dir` gets a folder per fold, `fold_0`, `fold_1` and so on, each with its training and, in `evaluation`, the
    predictions and scores of its held-out cases; and `metrics.csv` and `summary.json` of all cases.

    Args:
        output_dir: where everything goes; where an earlier call was stopped, this one goes on.
        num_folds: into how many parts the cases are dealt out.
        class_names: the task's classes, the background first.
        run: runs the workflow of a name (`train`, `evaluate`) with these config keys.
        own_cache: whether to keep prepared cases in `output_dir/cache` until all folds are trained.

    Returns:
        the content of `summary.json`.

    Raises:
        ConfigError: fewer than two folds.
    """
    if num_folds < 2:
        raise ConfigError(f"num_folds is {num_folds}; a cross-validation needs at least 2.")
    output_dir = Path(output_dir)
    cache = {"cache_dir": str(output_dir / "cache")} if own_cache else {}
    folders = [output_dir / f"{_FOLD}{fold}" for fold in range(num_folds)]
    for fold, folder in enumerate(folders):
        scored = folder / "evaluation"
        if (scored / "summary.json").exists():
            continue
        resume = (folder / "last.pt").exists()
        run("train", {"output_dir": str(folder), "fold": fold, "resume": resume, **cache})
        run("evaluate", {"output_dir": str(scored), "fold": fold, "ckpt_path": str(folder / "model.pt")})
    cases = [case for folder in folders for case in read_scores(folder / "evaluation", class_names)]
    summary = write_scores(output_dir, cases, class_names)
    print_summary(summary, f"{num_folds} folds, {len(cases)} cases, each by the model that has not seen it")
    if own_cache:
        shutil.rmtree(output_dir / "cache", ignore_errors=True)
    return summary


def models_of_folds(folder: Path) -> list[Path]:
    """The models of a cross-validation's folds; none if the folder is something else."""
    return sorted(folder.glob(f"{_FOLD}*/model.pt"), key=lambda path: int(path.parent.name.removeprefix(_FOLD)))
