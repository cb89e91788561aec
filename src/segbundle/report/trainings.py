"""Training curves of the models that a run scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from segbundle.report.charts import Line, curves
from segbundle.results.runs import Run

Curves = dict[str, list[tuple[float, float]]]
"""TensorBoard scalars of one training run by tag, each a list of (epoch, value)."""
_PER_CLASS = "validation/dice/"
_CHARTS = (
    ("train/loss", "loss"),
    ("validation/mean_dice", "validation mean Dice"),
    (_PER_CLASS, "validation Dice per class"),
    ("train/learning_rate", "learning rate"),
)
"""Tag or prefix of tags, and the label of the chart."""


def read_curves(run: Run) -> dict[str, Curves]:
    """Return the TensorBoard scalars of the training runs whose models a run scored.

    Args:
        run: evaluation, cross-validation or training run.

    Returns:
        scalars by name of the fold, such as "fold 0"; a single training run has the name "". The scalars of a run are
        lists of pairs (epoch, value) by tag. Empty if there are no folders with event files.

    Example:
        >>> read_curves(Run(Path("run"), [], {"classes": {}}, {}, {}, {}))
        {}
    """
    return {name: _read_scalars(folder) for name, folder in run.trainings.items()}


def _read_scalars(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def drawn(trainings: Mapping[str, Curves], class_colors: Mapping[str, str] | None = None) -> list[Markup]:
    """Return SVG charts of the loss, the validation Dice (mean and per class) and the learning rate over epochs.

    Each fold has its own color. In the chart per class, each class has its own color, the same in all folds.

    Args:
        trainings: scalars from `read_curves`.
        class_colors: CSS class that sets the color of each class, by name. Default: a built-in sequence of colors.

    Returns:
        one SVG per chart. Charts without values are left out.

    Example:
        >>> len(drawn({"": {"train/loss": [(1, 0.9), (2, 0.5)]}}))
        1
    """
    charts = []
    for prefix, label in _CHARTS:
        lines = [
            Line(tag.removeprefix(prefix) or name, " ".join(filter(None, (name, tag.removeprefix(prefix)))), values)
            for name, scalars in trainings.items()
            for tag, values in scalars.items()
            if tag.startswith(prefix) and values
        ]
        if lines:
            charts.append(curves(label, lines, class_colors if prefix == _PER_CLASS else None))
    return charts


def unfinished(run: Run, trainings: Mapping[str, Curves]) -> str | None:
    """Return a sentence about the progress of an unfinished training run, or None after the last epoch.

    Args:
        run: run that is shown. For runs other than training runs, or with an unknown `max_epochs`, None is returned.
        trainings: scalars from `read_curves`. Without a loss, None is returned.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "task.json").write_text("{}")  # folder of a training run
        ...     run = Run(Path(folder), [], {"classes": {}}, {"config": {"max_epochs": 40}}, {}, {})
        ...     unfinished(run, {"": {"train/loss": [(30, 0.2)]}})
        'Training has reached epoch 30 of 40.'
    """
    epochs = [epoch for scalars in trainings.values() for epoch, _ in scalars.get("train/loss", ())]
    planned = run.made_by.get("config", {}).get("max_epochs")
    if not run.is_training or not epochs or not isinstance(planned, (int, float)) or max(epochs) >= planned:
        return None
    return f"Training has reached epoch {max(epochs):.0f} of {planned}."
