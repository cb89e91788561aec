"""What a reader of scores must know before believing them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from segbundle.results.runs import Run
from segbundle.results.scores import mean_dice

_FEW = 10


def caveats(run: Run, cases: Collection[str], class_names: Sequence[str]) -> Iterator[str]:
    """What could make a run's scores look better than they are, in sentences.

    Args:
        run: whose scores are shown.
        cases: those of its cases that are.
        class_names: those of its classes that are.
    """
    if run.is_training:
        after = f" after epoch {run.summary['epoch']}" if "epoch" in run.summary else ""
        yield (
            f"These are the training's own validation scores{after}, the best of its validations: "
            "those of new cases tend to be lower."
        )
    elif run.trained_on is None:
        if run.made_by and not run.folds:
            yield "Whether the model was trained on some of these cases is not known."
    elif seen := run.trained_on & set(cases):
        rest = mean_dice([row for row in run.rows if row.case in cases and row.case not in seen], class_names)
        others = len(set(cases) - seen)
        mean = f"; the mean Dice of the other {others} is {rest:.4f}" if rest is not None else ""
        which = "all of these cases" if others == 0 else f"{len(seen)} of these {len(cases)} cases"
        yield f"By their names, the model was trained on {which}, and they look better than new ones{mean}."
    if chose := (run.chosen_by - (run.trained_on or set())) & set(cases):
        which = "these cases" if len(chose) == len(set(cases)) else f"{len(chose)} of these {len(cases)} cases"
        models = "of each fold's model on that fold's cases" if run.folds else f"of the model on {which}"
        yield f"The Dice {models} chose its epoch: that of new cases tends to be lower."


def few(counts: Collection[int], what: str = "cases") -> str | None:
    """A caution about intervals of few values, in a sentence.

    Args:
        counts: of the values that each interval is of.
        what: the values are.
    """
    if not any(1 < count < _FEW for count in counts):
        return None
    limits = " and limits of agreement" if what == "cases" else ""
    return f"Intervals{limits} of fewer than ten {what} are rough, and mostly too narrow."
