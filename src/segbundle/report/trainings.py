"""The curves of the trainings that made a run's models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from segbundle.report.charts import Line, curves
from segbundle.results.runs import Run

Curves = dict[str, list[tuple[float, float]]]
"""Values of a training by their names, as (epoch, value)."""
_CURVES = (
    ("train/loss", "loss"),
    ("validation/mean_dice", "mean Dice of the validation"),
    ("validation/dice/", "Dice of the validation, per class"),
    ("train/learning_rate", "learning rate"),
)


def read_curves(run: Run) -> dict[str, Curves]:
    """The curves of a run's trainings, by the names of their folds."""
    return {name: _scalars(folder) for name, folder in run.trainings.items()}


def _scalars(folder: Path) -> Curves:
    """Every scalar that TensorBoard has of a training."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def drawn(trainings: Mapping[str, Curves]) -> list[Markup]:
    """A chart for the loss, the validation's Dice and the learning rate, as far as there are curves of them.

    Lines of the folds have a colour each, those of classes the same in every fold.
    """
    found = []
    for prefix, label in _CURVES:
        lines = [
            Line(tag.removeprefix(prefix) or name, " ".join(filter(None, (name, tag.removeprefix(prefix)))), values)
            for name, scalars in trainings.items()
            for tag, values in scalars.items()
            if tag.startswith(prefix) and values
        ]
        if lines:
            found.append(curves(label, lines))
    return found


def unfinished(run: Run, trainings: Mapping[str, Curves]) -> str | None:
    """In words, how far a training has come that has not come to its end."""
    epochs = [place for scalars in trainings.values() for place, _ in scalars.get("train/loss", ())]
    planned = run.made_by.get("config", {}).get("max_epochs")
    if not run.is_training or not epochs or not isinstance(planned, (int, float)) or max(epochs) >= planned:
        return None
    return f"The training has come to epoch {max(epochs):.0f} of {planned}."
