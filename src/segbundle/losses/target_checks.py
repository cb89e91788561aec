"""Refusing arguments and batches that would make a loss silently wrong. Every message names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from segbundle.losses.ramp import LinearRamp

CHECKED_CALLS_ON_GPU = 10
"""Looking at data makes a GPU wait, so its batches are looked at this many times; on a CPU always."""

_T = TypeVar("_T")


def one_activation(sigmoid: bool, softmax: bool, other_act: Any) -> None:
    """At most one activation, and one that can be called."""
    if other_act is not None and not callable(other_act):
        raise ValueError(f"other_act must be callable or None, got a {type(other_act).__name__}.")
    if sum((sigmoid, softmax, other_act is not None)) > 1:
        raise ValueError("sigmoid, softmax and other_act exclude each other: choose one of them.")


def one_of(name: str, value: _T, known: Sequence[Any]) -> _T:
    """A value that is among the known ones."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, and must be one of {', '.join(map(repr, known))}.")
    return value


def not_negative(**values: float) -> None:
    """Numbers of zero or more."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}, and must be finite and not negative.")


def factors(**values: float | LinearRamp) -> None:
    """Factors of the parts of a loss: ramps, or numbers of zero or more."""
    not_negative(**{name: value for name, value in values.items() if not isinstance(value, LinearRamp)})


def weights(weight: Sequence[float] | float | torch.Tensor | None) -> torch.Tensor | None:
    """Class weights as a float tensor: one number for all classes, or one for each; none negative."""
    if weight is None:
        return None
    tensor = torch.as_tensor(weight, dtype=torch.float32).detach().clone()
    if tensor.ndim > 1:
        raise ValueError(f"weight has shape {tuple(tensor.shape)}; a number, or one per class, is needed.")
    if not bool(((tensor >= 0) & tensor.isfinite()).all()):
        raise ValueError(f"weight is {tensor.tolist()}; every entry must be finite and not negative.")
    return tensor


def shapes(input: torch.Tensor, target: torch.Tensor, index_map: bool) -> None:
    """Input (B, C, *spatial) and target (B, 1 or C, *spatial)."""
    if input.ndim < 3:
        raise ValueError(f"input has shape {tuple(input.shape)}; (B, C, *spatial) is needed.")
    if not input.is_floating_point():
        raise ValueError(f"input has dtype {input.dtype}; scores or probabilities in floating point are needed.")
    wanted = (len(input), 1 if index_map else input.shape[1], *input.shape[2:])
    if tuple(target.shape) != wanted:
        hint = ""
        if index_map and target.ndim > 1 and target.shape[1] == input.shape[1]:
            hint = " It looks one-hot: leave to_onehot_y out."
        elif not index_map and target.ndim > 1 and target.shape[1] == 1:
            hint = " It looks like an index map: set to_onehot_y=True."
        raise ValueError(f"target has shape {tuple(target.shape)}, and must have {wanted} for this input.{hint}")


def class_indices(target: torch.Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Indices in [0, num_classes), apart from the ignored one."""
    if target.numel() == 0:
        return
    values = target if target.is_floating_point() else target.long()  # num_classes may not fit the target's own type
    lowest, highest = (float(value) for value in values.aminmax())
    integral = not target.is_floating_point() or bool((values == values.round()).all())
    if lowest >= 0 and highest < num_classes and integral:
        return
    wrong = ~((values >= 0) & (values < num_classes) & (values == values.round()))
    if ignore_index is not None:
        wrong &= values != ignore_index
    if bool(wrong.any()):
        found = sorted({float(value) for value in values[wrong].unique()[:3]})
        hint = "ignore_index leaves voxels of unknown class out" if ignore_index is None else f"or be {ignore_index}"
        raise ValueError(f"target holds {found}; class indices must lie in [0, {num_classes - 1}]; {hint}.")


def one_hot(target: torch.Tensor, ignore_index: int | None) -> None:
    """Values in [0, 1], apart from the ignored one where there is a single channel."""
    values = target
    if target.shape[1] == 1 and ignore_index is not None:
        values = target[target.to(torch.float32) != ignore_index]
    lowest, highest = (float(value) for value in values.aminmax()) if values.numel() else (0.0, 0.0)
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"target holds values from {lowest:g} to {highest:g}; one-hot or soft ones lie in [0, 1].")


def probabilities(input: torch.Tensor, sum_to_one: bool) -> None:
    """Values in [0, 1] where no activation makes them so; with merged classes their sum must not exceed 1 either."""
    if input.numel() == 0:
        return
    rounding = 1 + input.shape[1] * torch.finfo(input.dtype).eps
    lowest, highest = (float(value) for value in input.detach().aminmax())
    if lowest < 0 or highest > rounding:
        raise ValueError(
            f"input holds values from {lowest:g} to {highest:g}, which are no probabilities: set softmax=True, or "
            "sigmoid=True for a single class or classes that overlap."
        )
    if sum_to_one and input.shape[1] > 1 and float(input.detach().float().sum(dim=1).max()) > rounding + 1e-4:
        raise ValueError(
            "input holds probabilities that sum to more than 1 over the classes; with unannotated classes they "
            "are added up: set softmax=True, or sigmoid=True for classes that overlap."
        )


def annotated(annotated: torch.Tensor | None, batch_size: int, num_classes: int) -> torch.Tensor | None:
    """`annotated` as a bool tensor on the CPU, or None if everything was annotated."""
    if annotated is None:
        return None
    annotated = torch.as_tensor(annotated)
    if tuple(annotated.shape) != (batch_size, num_classes):
        raise ValueError(
            f"annotated has shape {tuple(annotated.shape)}, and must have (B, C) = {(batch_size, num_classes)}."
        )
    if annotated.dtype != torch.bool:
        raise ValueError(f"annotated has dtype {annotated.dtype}, and must be bool.")
    annotated = annotated.detach().cpu()
    if num_classes > 1 and not bool(annotated[:, 0].all()):
        raise ValueError(
            "annotated is False for the background (class 0) of a sample: leave out the classes that nobody "
            "looked for, and voxels that nobody looked at by ignore_index."
        )
    return None if bool(annotated.all()) else annotated


def finite(*sums: torch.Tensor) -> None:
    """No NaN or Inf in what was counted, which there is as soon as one score is."""
    if not all(bool(values.isfinite().all()) for values in sums):
        raise ValueError("input holds NaN or Inf; lower the learning rate, or look at the batch's images.")
