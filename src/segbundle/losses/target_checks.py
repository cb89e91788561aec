"""Check arguments and batches that would silently give a wrong loss. Every message names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from segbundle.losses.ramp import LinearRamp

CHECKED_CALLS_ON_GPU = 10
"""Number of batches whose values are checked on a GPU, where checks synchronize. On a CPU all batches are checked."""

_Value = TypeVar("_Value")


def one_activation(sigmoid: bool, softmax: bool, other_act: Any) -> None:
    """Raise an error if several activations are given, or `other_act` is not callable.

    Args:
        sigmoid: whether sigmoid is the activation.
        softmax: whether softmax is the activation.
        other_act: function from logits to probabilities, or None.

    Raises:
        ValueError: several activations are given, or `other_act` is not callable.

    Example:
        >>> one_activation(sigmoid=False, softmax=True, other_act=None)
    """
    if other_act is not None and not callable(other_act):
        raise ValueError(f"other_act must be callable or None, got a {type(other_act).__name__}.")
    if sum((sigmoid, softmax, other_act is not None)) > 1:
        raise ValueError("sigmoid, softmax and other_act exclude each other. Choose one of them.")


def region_table(regions: Sequence[Sequence[int]] | None, other_act: Any) -> torch.Tensor | None:
    """Return a table of the label values that each class contains.

    Args:
        regions: label values of each class, background first; None if classes do not overlap.
        other_act: function from logits to probabilities, which excludes regions, or None.

    Returns:
        (C, V) bool for label values below V, True where a class contains a value; or None if `regions` is None

    Raises:
        ValueError: a value is not a whole number from 0, a class has no values, or `other_act` is given.

    Example:
        >>> region_table([[0], [1, 2], [2]], None).int().tolist()
        [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    """
    if regions is None:
        return None
    if other_act is not None:
        raise ValueError("other_act cannot be combined with regions, which use sigmoid. Remove other_act.")
    for values in regions:
        if not values or not all(isinstance(value, int) and value >= 0 for value in values):
            raise ValueError(
                f"regions contains {values}; each class needs at least one label value, an integer from 0."
            )
    table = torch.zeros(len(regions), 1 + max(max(values) for values in regions), dtype=torch.bool)
    for index, values in enumerate(regions):
        table[index, list(values)] = True
    return table


def regions_fit(table: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return a table of label values unchanged, after checking that it has one row per class of the input.

    Args:
        table: (C, V) bool, see `region_table`.
        num_classes: number of channels of the input.

    Returns:
        `table`, (C, V) bool

    Raises:
        ValueError: the number of rows differs from `num_classes`.

    Example:
        >>> regions_fit(torch.eye(2, dtype=torch.bool), 2).shape
        torch.Size([2, 2])
    """
    if len(table) != num_classes:
        raise ValueError(f"regions has {len(table)} classes, but the input has {num_classes}. Give one list per class.")
    return table


def one_of(name: str, value: _Value, known: Sequence[Any]) -> _Value:
    """Return a value unchanged, after checking that it is one of the known values.

    Args:
        name: name of the argument, for the message.
        value: value to check.
        known: accepted values.

    Raises:
        ValueError: the value is not accepted.

    Example:
        >>> one_of("reduction", "mean", ("mean", "sum"))
        'mean'
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}.")
    return value


def not_negative(**values: float) -> None:
    """Raise an error if a number is negative or not finite.

    Args:
        values: numbers by the name of their argument.

    Raises:
        ValueError: a number is negative, infinite or NaN.

    Example:
        >>> not_negative(smooth_nr=1e-5, smooth_dr=0.0)
    """
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}, but must be finite and not negative.")


def factors(**values: float | LinearRamp) -> None:
    """Raise an error if the factor of a loss term is negative or not finite. Ramps are accepted.

    Args:
        values: factors by the name of their argument.

    Raises:
        ValueError: a number is negative, infinite or NaN.

    Example:
        >>> factors(lambda_dice=LinearRamp(), lambda_ce=1.0)
    """
    not_negative(**{name: value for name, value in values.items() if not isinstance(value, LinearRamp)})


def weights(weight: Sequence[float] | float | torch.Tensor | None) -> torch.Tensor | None:
    """Return class weights as a float32 tensor without gradient.

    Args:
        weight: a number for all classes, or a sequence with one number per class; None for no weights.

    Returns:
        a scalar or a tensor (C,), or None

    Raises:
        ValueError: a weight is negative or not finite, or the shape is neither () nor (C,).

    Example:
        >>> weights([1, 2.5])
        tensor([1.0000, 2.5000])
    """
    if weight is None:
        return None
    tensor = torch.as_tensor(weight, dtype=torch.float32).detach().clone()
    if tensor.ndim > 1:
        raise ValueError(f"weight has shape {tuple(tensor.shape)}, but must be a number or have one entry per class.")
    if not bool(((tensor >= 0) & tensor.isfinite()).all()):
        raise ValueError(f"weight is {tensor.tolist()}, but every entry must be finite and not negative.")
    return tensor


def shapes(input: torch.Tensor, target: torch.Tensor, index_map: bool) -> None:
    """Raise an error if the shapes of input and target do not match.

    Args:
        input: (B, C, *spatial) floating point.
        target: (B, 1, *spatial) or (B, C, *spatial).
        index_map: whether the target must have a single channel of class indices.

    Raises:
        ValueError: shapes do not match, or the input is not floating point.

    Example:
        >>> shapes(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), index_map=True)
    """
    if input.ndim < 3:
        raise ValueError(f"input has shape {tuple(input.shape)}, but must have (B, C, *spatial).")
    if not input.is_floating_point():
        raise ValueError(f"input has dtype {input.dtype}, but logits or probabilities must be floating point.")
    wanted = (len(input), 1 if index_map else input.shape[1], *input.shape[2:])
    if tuple(target.shape) != wanted:
        hint = ""
        if index_map and target.ndim > 1 and target.shape[1] == input.shape[1]:
            hint = " It looks one-hot: set to_onehot_y=False."
        elif not index_map and target.ndim > 1 and target.shape[1] == 1:
            hint = " It looks like an index map: set to_onehot_y=True."
        raise ValueError(f"target has shape {tuple(target.shape)}, but must have {wanted} for this input.{hint}")


def class_indices(target: torch.Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Raise an error if class indices are outside [0, num_classes).

    Args:
        target: class indices of any shape and dtype.
        num_classes: number of classes, including the background.
        ignore_index: index that is accepted as well, or None.

    Raises:
        ValueError: an index is out of range or not an integer; the message lists up to three such indices.

    Example:
        >>> class_indices(torch.tensor([0, 2, 255]), num_classes=3, ignore_index=255)
    """
    if target.numel() == 0:
        return
    values = target if target.is_floating_point() else target.long()  # num_classes may not fit the target's dtype
    lowest, highest = (float(value) for value in values.aminmax())
    integral = not target.is_floating_point() or bool((values == values.round()).all())
    if lowest >= 0 and highest < num_classes and integral:
        return
    wrong = ~((values >= 0) & (values < num_classes) & (values == values.round()))
    if ignore_index is not None:
        wrong &= values != ignore_index
    if bool(wrong.any()):
        found = sorted({float(value) for value in values[wrong].unique()[:3]})
        hint = ". Set ignore_index to exclude unknown voxels" if ignore_index is None else f" or be {ignore_index}"
        raise ValueError(f"target contains {found}, but class indices must be in [0, {num_classes - 1}]{hint}.")


def one_hot(target: torch.Tensor, ignore_index: int | None) -> None:
    """Raise an error if values of a one-hot or soft target are outside [0, 1].

    Args:
        target: (B, C, *spatial).
        ignore_index: value that is accepted as well if C is 1, or None.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> one_hot(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), ignore_index=None)
    """
    values = target
    if target.shape[1] == 1 and ignore_index is not None:
        values = target[target.to(torch.float32) != ignore_index]
    lowest, highest = (float(value) for value in values.aminmax()) if values.numel() else (0.0, 0.0)
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(
            f"target contains values from {lowest:g} to {highest:g}, but one-hot and soft targets are in [0, 1]."
        )


def probabilities(input: torch.Tensor, sum_to_one: bool) -> None:
    """Raise an error if the values of an input without activation are not probabilities.

    Args:
        input: (B, C, *spatial).
        sum_to_one: whether the sum over classes must not exceed 1, as needed to merge classes.

    Raises:
        ValueError: values are outside [0, 1], or their sum exceeds 1.

    Example:
        >>> probabilities(torch.tensor([[[0.25], [0.75]]]), sum_to_one=True)
    """
    if input.numel() == 0:
        return
    rounding = 1 + input.shape[1] * torch.finfo(input.dtype).eps
    lowest, highest = (float(value) for value in input.detach().aminmax())
    if lowest < 0 or highest > rounding:
        raise ValueError(
            f"input contains values from {lowest:g} to {highest:g}, but probabilities are in [0, 1]. Set softmax=True, "
            "or sigmoid=True for a single class or overlapping classes."
        )
    if sum_to_one and input.shape[1] > 1 and float(input.detach().float().sum(dim=1).max()) > rounding + 1e-4:
        raise ValueError(
            "input contains probabilities that sum to more than 1 over the classes, but unannotated classes need a sum "
            "of at most 1. Set softmax=True, or sigmoid=True for overlapping classes."
        )


def annotated(annotated: torch.Tensor | None, batch_size: int, num_classes: int) -> torch.Tensor | None:
    """Return a valid annotation mask as a bool tensor on the CPU; None if all classes are annotated.

    Args:
        annotated: (B, C) bool, as a tensor or nested lists, False for classes that were not annotated in a sample; or
            None if all classes are annotated.
        batch_size: number of samples, B.
        num_classes: number of classes, C, including the background.

    Returns:
        (B, C) bool, or None if all classes are annotated

    Raises:
        ValueError: the shape or dtype is wrong, or the background is marked as unannotated.

    Example:
        >>> annotated([[True, False]], batch_size=1, num_classes=2)
        tensor([[ True, False]])
        >>> annotated([[True, True]], batch_size=1, num_classes=2) is None
        True
    """
    if annotated is None:
        return None
    annotated = torch.as_tensor(annotated)
    if tuple(annotated.shape) != (batch_size, num_classes):
        raise ValueError(
            f"annotated has shape {tuple(annotated.shape)}, but must have (B, C) = {(batch_size, num_classes)}."
        )
    if annotated.dtype != torch.bool:
        raise ValueError(f"annotated has dtype {annotated.dtype}, but must be bool.")
    annotated = annotated.detach().cpu()
    if num_classes > 1 and not bool(annotated[:, 0].all()):
        raise ValueError(
            "annotated is False for the background (class 0) of a sample. Set it to True, and use ignore_index for "
            "unknown voxels."
        )
    return None if bool(annotated.all()) else annotated


def finite(*sums: torch.Tensor) -> None:
    """Raise an error if the sums of a batch contain NaN or Inf because of the input.

    Args:
        sums: tensors of any shape.

    Raises:
        ValueError: a value is NaN or infinite.

    Example:
        >>> finite(torch.tensor([1.0, 2.0]))
    """
    if not all(bool(values.isfinite().all()) for values in sums):
        raise ValueError("input contains NaN or Inf. Lower the learning rate, or check the images of this batch.")
