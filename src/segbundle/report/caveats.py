"""Reasons why the scores of a run may look better than scores on new cases."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from segbundle.results.runs import Run
from segbundle.results.summary import mean_dice

_FEW = 10


def caveats(run: Run, cases: Collection[str], class_names: Sequence[str]) -> Iterator[str]:
    """Yield reasons why the scores of a run may be too optimistic.

    Args:
        run: run whose scores are shown.
        cases: names of the cases that are shown.
        class_names: names of the foreground classes that are shown.

    Yields:
        one complete sentence per reason; nothing if no reason is known

    Example:
        >>> from pathlib import Path
        >>> run = Run(Path("run"), [], {"classes": {}}, {"command": "segbundle evaluate"}, {}, {}, trained_on=None)
        >>> list(caveats(run, ["case_1"], ["liver"]))
        ['It is unknown whether the model was trained on some of these cases.']
    """
    if run.is_training:
        after = f" after epoch {run.summary['epoch']}" if "epoch" in run.summary else ""
        newest = run.summary.get("model") is not None  # weights of the newest validation, see `Checkpoints`
        which = "" if newest else ", the best of all validated epochs"
        yield (
            f"These scores come from the validation during training{after}{which}. "
            "Scores on new cases tend to be lower."
        )
    elif run.trained_on is None:
        if run.made_by and not run.folds:
            yield "It is unknown whether the model was trained on some of these cases."
    elif seen := run.trained_on & set(cases):
        rest = mean_dice([row for row in run.rows if row.case in cases and row.case not in seen], class_names)
        num_others = len(set(cases) - seen)
        others = "1 case" if num_others == 1 else f"{num_others} cases"
        mean = f" The mean Dice of the other {others} is {rest:.4f}." if rest is not None else ""
        which = "all of these cases" if num_others == 0 else f"{len(seen)} of these {len(cases)} cases"
        yield f"Judging by case names, the model was trained on {which}; their scores are too optimistic.{mean}"
    if selected_on := (run.chosen_by - (run.trained_on or set())) & set(cases):
        some = f"{len(selected_on)} of these {len(cases)} cases"
        which = "these cases" if len(selected_on) == len(set(cases)) else some
        model, on = ("each fold's model", "the cases of that fold") if run.folds else ("the model", which)
        yield f"The epoch of {model} was selected by its Dice on {on}. Dice on new cases tends to be lower."


def few(counts: Collection[int], what: str = "cases") -> str | None:
    """Return a warning that intervals from few values are imprecise, or None if there are enough values.

    Args:
        counts: for each interval, the number of values from which it was computed.
        what: plural noun for the values. Default: "cases".

    Returns:
        a sentence if any interval was computed from two to nine values, else None

    Example:
        >>> few([5, 20])
        'Intervals and limits of agreement from fewer than ten cases are rough and usually too narrow.'
        >>> few([20, 30]) is None
        True
    """
    if not any(1 < count < _FEW for count in counts):
        return None
    limits = " and limits of agreement" if what == "cases" else ""
    return f"Intervals{limits} from fewer than ten {what} are rough and usually too narrow."
