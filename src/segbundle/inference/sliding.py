"""Sliding windows over a volume: the network's side of inference."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import monai.inferers
import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep, fall_back_tuple
from tqdm import tqdm

from segbundle.acceleration.rewriting import normalises_by_window, optimised
from segbundle.config.choices import Backend, Precision
from segbundle.hardware.device_memory import has_room
from segbundle.inference.backends import prepare
from segbundle.inference.ensemble import members
from segbundle.inference.memory import Needs, choose_batch, choose_windows, limit_batch, measured_needs
from segbundle.inference.precision import autocast, computed_dtype
from segbundle.inference.slabs import ScoreSlabs, Slab, SlabBuffer
from segbundle.inference.windows import Place, WindowPlan, importance, plan_windows

_logger = logging.getLogger(__name__)
Network = Callable[..., torch.Tensor]
Member = tuple[str | None, Network]
_AIR = 0.01
"""What lies this part of the volume's range above its lowest value counts as air."""
_FEW = 16
"""Windows at a time whose memory is not measured if their number is given."""
_SHAPES = 4
"""Window shapes, per checkpoint, for which prepared networks are kept."""


class _OtherOutputError(ValueError):
    """A network returned something else than one tensor of scores of the windows' size."""


class SlidingWindowInferer(monai.inferers.SlidingWindowInferer):
    """MONAI's sliding windows, faster and in less memory, with the same result.

    `inferer(inputs, network)` returns the scores of the whole volume, as MONAI's does. `inferer.slabs(inputs, network)`
    hands them out slab by slab, so that classes times volume never exist; `segbundle.transforms.restore_labels` makes
    a label map of them. Windows are visited along one axis, and their weighted sums kept in float32 in a buffer as
    thick as one window (`SlabBuffer`).

    What MONAI's inferer takes beyond 3D volumes and one tensor of scores of the windows' size (`with_coord`, further
    arguments, 2D, several outputs or smaller ones, gradients with respect to the inputs) is left to MONAI's. Then only
    `precision` is ours, and `slabs` is of no use.

    Args:
        roi_size: voxels of a window, (X, Y, Z) or one number; `auto` takes the largest windows of at least `patch_size`
            that memory allows, with as many voxels of overlap as windows of `patch_size` would have, or just
            `patch_size` if the network normalises by what a window shows (`normalises_by_window`).
        sw_batch_size: windows at a time, or `auto`; fewer if they do not fit into memory.
        overlap, mode, sigma_scale, padding_mode, cval, sw_device, device, progress, and others: as in
            `monai.inferers.SlidingWindowInferer`; `device` holds the sums of the scores, by default where windows are
            computed, or the CPU if they do not fit there.
        precision: see `segbundle.inference.precision.autocast`.
        backend: see `segbundle.inference.backends.prepare`.
        flip_axes: spatial axes along which windows are mirrored as well; scores are averaged over all combinations,
            so that three axes cost eight times as much.
        skip_air: windows in which no value lies more than 1 % of the volume's range above its lowest are not computed;
            what no window covers is background, the first class.
        patch_size: what the network was trained with; `roi_size: auto` needs it.
        checkpoints: files with the network's weights (plain state dicts). Their scores are averaged; one is
            loaded at a time. Empty for the weights that the network has.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int | Literal["auto"],
        sw_batch_size: int | Literal["auto"] = 4,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "gaussian",
        *args: Any,
        precision: Precision = "auto",
        backend: Backend = "eager",
        flip_axes: Sequence[int] = (),
        skip_air: bool = False,
        patch_size: Sequence[int] | None = None,
        checkpoints: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if roi_size == "auto" and patch_size is None:
            raise ValueError("roi_size 'auto' needs patch_size, the size that the network was trained with.")
        if backend not in get_args(Backend):
            raise ValueError(f"backend is {backend!r}, and must be one of {', '.join(get_args(Backend))}.")
        if not set(flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes must be some of 0, 1 and 2, got {list(flip_axes)}.")
        largest = patch_size if roi_size == "auto" else roi_size
        super().__init__(largest, 1 if sw_batch_size == "auto" else sw_batch_size, overlap, mode, *args, **kwargs)
        self.automatic = roi_size == "auto"
        self.automatic_batch = sw_batch_size == "auto"
        self.precision = precision
        self.backend = backend
        self.flip_axes = tuple(flip_axes)
        self.skip_air = skip_air
        self.patch_size = patch_size
        self.checkpoints = tuple(checkpoints)
        self._most: int | None = None  # windows at a time that the GPU's memory was found to allow
        self._needs: tuple[Network, int, Needs] | None = None
        self._said = False
        self._sums: list[float] = []  # of the weights, when the last volume was begun
        self._ready: dict[Any, tuple[Any, Network]] = {}  # the weights' version, and the network prepared with them

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """Scores (B, num_classes, X, Y, Z) in float32 of volumes (B, C, X, Y, Z), a `MetaTensor` for one."""
        if inputs.ndim != 5 or self.with_coord or args or kwargs or inputs.requires_grad:
            return self._by_monai(inputs, network, *args, **kwargs)
        device = torch.device(self.device) if self.device else inputs.device
        if self.device is None and self.cpu_thresh is not None and inputs[0, 0].numel() > self.cpu_thresh:
            device = torch.device("cpu")
        try:
            volumes = [self.slabs(volume[None], network).whole(device) for volume in inputs]
            scores = volumes[0][None] if len(volumes) == 1 else torch.stack(volumes)
        except _OtherOutputError:
            return self._by_monai(inputs, network)
        return MetaTensor(scores).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else scores

    def _by_monai(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        if self.flip_axes or self.skip_air or self.checkpoints or self.backend != "eager":
            raise ValueError(
                "backend, flip_axes, skip_air and checkpoints are for 3D volumes and networks that return one tensor "
                "of scores of the windows' size, without further arguments."
            )
        with autocast(inputs.device, self.precision):
            return super().__call__(inputs, network, *args, **kwargs)

    @torch.inference_mode()
    def warm_up(self, network: Network, channels: int, device: torch.device) -> torch.Tensor | None:
        """Do what the first volume would have to wait for, with one window of so many channels.

        Returns:
            scores (1, num_classes, *patch_size) of a window of zeros; None from backends for which nothing can be
            done.

        Raises:
            RuntimeError, ValueError: the network takes no such window, or returns something else.
        """
        if self.backend != "eager":  # which would be compiled for a shape that is not used again
            return None
        patch_size = ensure_tuple_rep(self.patch_size or self.roi_size, 3)
        if self.automatic or self.automatic_batch:
            self._needs_of(network, channels, patch_size)
        self._forget_changed(network)  # so that the first volume finds nothing to forget
        _, member = next(members(network, self.checkpoints))
        return self._scores(torch.zeros(1, channels, *patch_size, device=device), (None, member), 1)

    def slabs(self, inputs: torch.Tensor, network: Network, axis: int | None = None) -> ScoreSlabs:
        """The scores of one volume, computed while they are read.

        Args:
            inputs: (1, C, X, Y, Z), floating point, on any device.
            network: windows (B, C, *roi_size) to scores (B, num_classes, *roi_size).
            axis: spatial axis along which slabs follow each other; None for the one that needs least memory.

        Raises:
            ValueError: not one 3D volume, or an impossible overlap; on iterating, a network that does not return one
                tensor of scores of the windows' size.
            torch.OutOfMemoryError: on iterating, a single window does not fit into the GPU's memory.
        """
        if inputs.ndim != 5 or len(inputs) != 1:
            raise ValueError(f"one volume (1, C, X, Y, Z) is needed, got shape {tuple(inputs.shape)}.")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        device = torch.empty(0, device=self.sw_device).device if self.sw_device else _device_of(network, volume)
        plan = self._plan(volume, network, device, axis)
        return ScoreSlabs(volume.shape[2:], plan.axis, self._slabs(volume, network, plan, device), plan.roi)

    def _plan(self, volume: torch.Tensor, network: Network, device: torch.device, axis: int | None) -> WindowPlan:
        shape = volume.shape[2:]
        roi, overlap = fall_back_tuple(self.roi_size, shape), ensure_tuple_rep(self.overlap, 3)
        if self.automatic and normalises_by_window(network):
            self._say_why_not()
        elif self.automatic:
            needs = self._needs_of(network, volume.shape[1], roi)
            roi, overlap = choose_windows(shape, roi, overlap, needs, device)
        return plan_windows(shape, roi, overlap, axis)

    def _say_why_not(self) -> None:
        if not self._said:
            _logger.info(
                "window_size auto: windows keep the size of patch_size, as this network normalises by what a window "
                "shows, and larger ones can change its result; give a size to try them"
            )
        self._said = True

    def _batch_size(self, network: Network, channels: int, plan: WindowPlan, device: torch.device) -> int:
        if not self.automatic_batch and (device.type != "cpu" or self.sw_batch_size <= _FEW):
            return self.sw_batch_size
        needs = self._needs_of(network, channels, plan.roi)
        if self.automatic_batch:
            return choose_batch(needs, plan.roi, device)
        return limit_batch(self.sw_batch_size, needs, plan.roi)

    def _needs_of(self, network: Network, channels: int, roi: Sequence[int]) -> Needs:
        if self._needs is None or self._needs[:2] != (network, channels):
            needs = measured_needs(network, channels, ensure_tuple_rep(self.patch_size or roi, 3))
            self._needs = (network, channels, needs)
        return self._needs[2]

    def _forget_changed(self, network: Network) -> None:
        """Drop prepared networks if weights have changed in a way that leaves no trace, as `parameter.data` does."""
        if isinstance(network, torch.nn.Module):
            sums = [float(tensor.sum(dtype=torch.float64)) for tensor in (*network.parameters(), *network.buffers())]
            if sums != self._sums:
                self._ready.clear()
            self._sums = sums

    @torch.inference_mode()
    def _slabs(self, volume: torch.Tensor, network: Network, plan: WindowPlan, device: torch.device) -> Iterator[Slab]:
        self._forget_changed(network)
        volume = _padded(volume, plan, self.padding_mode, self.cval)
        if has_room(volume.nbytes, device):
            volume = volume.to(device)
        batch = self._batch_size(network, volume.shape[1], plan, device)
        groups = list(plan.groups(at_least=batch))
        thickness = max(group[-1][plan.axis] - group[0][plan.axis] for group in groups) + plan.roi[plan.axis]
        weights = importance(plan.roi, self.mode, self.sigma_scale, device)
        buffer = SlabBuffer(plan, weights, thickness, torch.device(self.device) if self.device else None)
        scan = _unpadded(volume, plan)
        air = _air_level(scan) if self.skip_air else None
        with tqdm(total=len(plan), desc="windows", leave=False, disable=None if self.progress else True) as bar:
            for index, group in enumerate(groups):
                buffer.move_to(group[0][plan.axis])
                needed = [place for place in group if air is None or _rises_above(air, scan, place, plan)]
                unneeded = not needed and buffer.empty
                if unneeded:
                    needed = group[:1]  # the network has to say how many classes there are
                for checkpoint, member in members(network, self.checkpoints):
                    for places in _batches(needed, batch):
                        self._compute(places, volume, (checkpoint, member), buffer, device, plan.roi, batch)
                        bar.update(len(places) / max(len(self.checkpoints), 1))
                if unneeded:
                    buffer.clear()
                bar.update(len(group) - len(needed))
                last = index + 1 == len(groups)
                slab = buffer.finished(plan.padded[plan.axis] if last else groups[index + 1][0][plan.axis])
                if slab is not None:
                    yield slab

    def _compute(
        self,
        places: Sequence[Place],
        volume: torch.Tensor,
        member: Member,
        buffer: SlabBuffer,
        device: torch.device,
        roi: Sequence[int],
        batch: int,
    ) -> None:
        """Add the scores of the windows at some places, fewer windows at a time if memory is short."""
        most = len(places) if self._most is None else min(self._most, len(places))
        for first in range(0, len(places), most):
            some = places[first : first + most]
            error = self._try(some, volume, member, buffer, device, roi, batch)
            if error is None:
                continue
            torch.cuda.empty_cache()
            if len(some) > 1:
                self._most = len(some) // 2
            elif not buffer.leave(device):
                raise error
            self._compute(some, volume, member, buffer, device, roi, batch)

    def _try(self, places: Sequence[Place], *of: Any) -> torch.OutOfMemoryError | None:
        """As `_compute` for one batch; gives back the error, without the frames that would keep their tensors alive."""
        volume, member, buffer, device, roi, batch = of
        try:
            buffer.add(self._scores(_cut(volume, places, roi, device), member, batch), places)
        except torch.OutOfMemoryError as error:
            return error.with_traceback(None)
        return None

    def _scores(self, windows: torch.Tensor, member: Member, batch: int) -> torch.Tensor:
        """Scores (B, num_classes, X, Y, Z) of windows (B, C, X, Y, Z), averaged over the flips."""
        count = len(windows)
        if self.backend != "eager" and self._most is None and count < batch:  # one shape for all
            windows = torch.cat([windows, windows[-1:].expand(batch - count, *windows.shape[1:])])
        run = self._prepared(member, windows)
        total = run(windows)
        if not isinstance(total, torch.Tensor) or total.shape[2:] != windows.shape[2:]:
            raise _OtherOutputError("slabs need a network that returns one tensor of scores of the windows' size.")
        flips = _combinations(self.flip_axes)
        if flips:
            total = total.float().clone()
            for dims in flips:
                total += run(windows.flip(dims)).flip(dims)
            total /= len(flips) + 1
        return total[:count]

    def _prepared(self, member: Member, windows: torch.Tensor) -> Network:
        """The network on the chosen backend, prepared again only if its weights or the windows' shape have changed."""
        checkpoint, network = member
        shape, device = tuple(windows.shape), windows.device
        copied = self.backend == "openvino"  # which has all weights of a checkpoint to itself
        shared = checkpoint is not None and self.backend in ("compile", "cudagraph")  # and read as loaded in turn
        weights = None if checkpoint is not None and (copied or shared) else _version(network)
        key = (network, checkpoint if copied else None, shape, device)  # the network, as an id may be used again
        if key not in self._ready and len(self._ready) >= max(len(self.checkpoints), 1) * _SHAPES:
            self._ready.clear()
        if key not in self._ready or self._ready[key][0] != weights:
            quick = network
            if isinstance(network, torch.nn.Module) and not shared:
                own = self.backend == "eager" and device.type == "cpu"
                quick = optimised(network, shape, computed_dtype(device, self.precision) if own else None)
            self._ready[key] = weights, prepare(quick, self.backend, self.precision, shape, device)
        return self._ready[key][1]


def _device_of(network: Network, volume: torch.Tensor) -> torch.device:
    parameter = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    return volume.device if parameter is None else parameter.device


def _version(network: Network) -> Any:
    """Something that changes whenever a network's weights or its mode do."""
    if not isinstance(network, torch.nn.Module):
        return None
    tensors = (*network.parameters(), *network.buffers())
    return network.training, tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


def _padded(volume: torch.Tensor, plan: WindowPlan, mode: str, cval: float) -> torch.Tensor:
    pad = [voxels for sides in reversed(plan.padding) for voxels in sides]
    if not any(pad):
        return volume
    return torch.nn.functional.pad(volume, pad, mode=str(mode), value=cval if mode == "constant" else None)


def _unpadded(volume: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
    for axis, (before, _) in enumerate(plan.padding):
        volume = volume.narrow(2 + axis, before, plan.shape[axis])
    return volume


def _cut(volume: torch.Tensor, places: Sequence[Place], roi: Sequence[int], device: torch.device) -> torch.Tensor:
    """The windows (B, C, *roi) at some places of a volume (1, C, X, Y, Z), on the device where they are computed."""
    shape = (len(places), volume.shape[1], *roi)
    pinned = volume.device.type == "cpu" and device.type == "cuda"
    windows = torch.empty(shape, dtype=volume.dtype, device=volume.device, pin_memory=pinned)
    for window, (x, y, z) in zip(windows, places, strict=True):
        window.copy_(volume[0, :, x : x + roi[0], y : y + roi[1], z : z + roi[2]])
    return windows.to(device, non_blocking=True)


def _air_level(volume: torch.Tensor) -> torch.Tensor:
    """Per channel, the value (C, 1, 1, 1) up to which voxels count as air."""
    lowest, highest = (pick(volume[0], dim=(1, 2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
    return lowest + _AIR * (highest - lowest)


def _rises_above(air: torch.Tensor, scan: torch.Tensor, place: Place, plan: WindowPlan) -> bool:
    """Whether a scan (1, C, X, Y, Z) holds anything in a window; what was added around the scan does not count."""
    starts = [start - before for start, (before, _) in zip(place, plan.padding, strict=True)]
    x, y, z = (slice(max(start, 0), start + size) for start, size in zip(starts, plan.roi, strict=True))
    window = scan[0, :, x, y, z]
    return bool((window.amax(dim=(1, 2, 3), keepdim=True) > air).any())


def _batches(places: Sequence[Place], most: int) -> Iterator[Sequence[Place]]:
    """Places in as few batches of at most so many as possible, all of about the same size."""
    count = -(-len(places) // most)
    for index in range(count):
        yield places[index * len(places) // count : (index + 1) * len(places) // count]


def _combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of axes of a batch of windows to mirror, but for the empty one."""
    dims = [2 + axis for axis in axes]
    return [chosen for size in range(1, len(dims) + 1) for chosen in itertools.combinations(dims, size)]
