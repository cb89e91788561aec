"""Sliding-window inference on volumes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import monai.inferers
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.utils import ensure_tuple_rep, fall_back_tuple
from tqdm import tqdm

from segbundle.acceleration.rewriting import normalizes_by_window
from segbundle.config.choices import Backend, Precision
from segbundle.config.from_settings import from_settings
from segbundle.hardware.memory_usage import has_room
from segbundle.inference.backends import Member, Network, PreparedNetworks, autocast, members
from segbundle.inference.memory import Needs, choose_batch, choose_windows, measured_needs
from segbundle.inference.slabs import ScoreSlabs, Slab, SlabBuffer
from segbundle.inference.windows import Place, WindowPlan, plan_windows

_logger = logging.getLogger(__name__)
_AIR_FRACTION = 0.01
"""Air threshold, as a fraction of the intensity range above the minimum."""
_UNCHECKED_BATCH = 16
"""Batch size up to which a given value is used without measuring memory (CPU)."""


class _UnsupportedOutputError(ValueError):
    """Error for an output that is not a single tensor of logits with the size of the windows."""


class SlidingWindowInferer(monai.inferers.SlidingWindowInferer):
    """Sliding-window inferer that returns the same logits as MONAI's, faster and with a smaller memory footprint.

    `inferer(inputs, network)` returns the logits of the whole volume, as in MONAI. `inferer.slabs(inputs, network)`
    returns an iterator that computes the logits slab by slab, so that no tensor of the size classes x volume is
    allocated. `segbundle.transforms.restore_labels` converts the slabs to a label map. Windows are visited along one
    axis. Their logits are summed with weights in float32, in a buffer that is about as thick as a window
    (`SlabBuffer`).

    MONAI's inferer runs in the cases that only MONAI supports: 2D, `with_coord`, additional arguments, several outputs,
    smaller outputs, and gradients with respect to the inputs. In these cases, `slabs` is not available, and `backend`,
    `flip_axes`, `skip_air` and `checkpoints` must not be set.

    Args:
        roi_size: window size in voxels, (X, Y, Z) or a number. `auto` selects the windows with the least computation
            that fit into memory and are at least as large as `patch_size`. These windows overlap by as many voxels as
            windows of `patch_size`. If the network normalizes by window statistics (`normalizes_by_window`), `auto`
            selects `patch_size`.
        sw_batch_size: number of windows per batch, or `auto`; reduced if the windows do not fit into memory. Default:
            4.
        overlap: overlap of adjacent windows as a fraction in [0, 1); a number, or one per axis. Default: 0.5.
        mode: weights of the voxels of a window, `gaussian` (default) or `constant`.
        args, kwargs: other arguments of `monai.inferers.SlidingWindowInferer`, such as `sigma_scale`, `padding_mode`
            and `progress`. `device` is the device of the summed logits; by default, the device of the network or, if
            its memory is too small for the sums, the CPU.
        precision: see `segbundle.inference.autocast`. Default: `auto`.
        backend: see `segbundle.inference.prepare`. Default: `eager`.
        flip_axes: axes for test-time flips. Logits are averaged over all combinations, so three axes take eight times
            as long. Default: none.
        skip_air: skip windows in which all values are at most 1% of the intensity range above the minimum of the
            volume. Voxels that no window covers are background, the first class. Default: False.
        patch_size: (X, Y, Z) of training patches; required for `roi_size: auto`. Default: None.
        checkpoints: paths of files with weights of the network (plain state dicts). Checkpoints are loaded one at a
            time, and their logits are averaged. Default: none (the current weights are used).

    Raises:
        ValueError: an argument is invalid.

    Example:
        >>> inferer = SlidingWindowInferer(roi_size=(4, 4, 4), precision="fp32")
        >>> inferer(torch.ones(1, 1, 6, 5, 4), lambda windows: torch.cat([windows, -windows], dim=1)).shape
        torch.Size([1, 2, 6, 5, 4])
    """

    @from_settings
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
            raise ValueError("roi_size 'auto' needs patch_size, the patch size in training.")
        if backend not in get_args(Backend):
            raise ValueError(f"backend is {backend!r}, but must be one of {', '.join(get_args(Backend))}.")
        if not set(flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes must be a subset of [0, 1, 2], got {list(flip_axes)}.")
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
        self._max_batch: int | None = None  # windows per batch that fit into the memory of the GPU, once known
        self._needs: tuple[Network, int, Needs] | None = None
        self._logged = False
        self._networks = PreparedNetworks(backend, precision, max(len(self.checkpoints), 1))
        dims = [2 + axis for axis in self.flip_axes]  # of a batch of windows
        self._flips = [flip for size in range(1, len(dims) + 1) for flip in itertools.combinations(dims, size)]

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """Return the logits of whole volumes.

        Args:
            inputs: (B, C, X, Y, Z), floating point, on any device; (B, C, *spatial) if MONAI's inferer runs.
            network: function from windows (B, C, *roi_size) to logits (B, num_classes, *roi_size).
            args: additional positional arguments of the network. With these, MONAI's inferer runs.
            kwargs: additional keyword arguments of the network. With these, MONAI's inferer runs.

        Returns:
            logits (B, num_classes, X, Y, Z) in float32; a `MetaTensor` with the metadata of `inputs` if `inputs` is a
            `MetaTensor`; the result of MONAI's inferer if that inferer runs

        Raises:
            ValueError: MONAI's inferer would run, but `backend`, `flip_axes`, `skip_air` or `checkpoints` is set; or
                the overlap is invalid.
            NonFiniteLogitsError: logits are NaN or infinite.
            torch.OutOfMemoryError: a single window does not fit into the memory of the GPU.
        """
        if inputs.ndim != 5 or self.with_coord or args or kwargs or inputs.requires_grad:
            return self._run_monai(inputs, network, *args, **kwargs)
        device = torch.device(self.device) if self.device else inputs.device
        if self.device is None and self.cpu_thresh is not None and inputs[0, 0].numel() > self.cpu_thresh:
            device = torch.device("cpu")
        try:
            volumes = [self.slabs(volume[None], network).whole(device) for volume in inputs]
            logits = volumes[0][None] if len(volumes) == 1 else torch.stack(volumes)
        except _UnsupportedOutputError:
            return self._run_monai(inputs, network)
        return MetaTensor(logits).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else logits

    def _run_monai(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        if self.flip_axes or self.skip_air or self.checkpoints or self.backend != "eager":
            raise ValueError(
                "backend, flip_axes, skip_air and checkpoints need a 3D volume and a network that returns one tensor "
                "of logits with the size of the windows, without additional arguments. Leave them at their defaults."
            )
        with autocast(inputs.device, self.precision):
            return super().__call__(inputs, network, *args, **kwargs)

    @torch.inference_mode()
    def warm_up(self, network: Network, channels: int, device: torch.device) -> torch.Tensor | None:
        """Run the network on one window of zeros, so that the first volume does not wait for initialization.

        Args:
            network: network to run; see `slabs`.
            channels: number of input channels.
            device: device of the network.

        Returns:
            logits (1, num_classes, *size) of the window, where `size` is `patch_size` or, if that is None, `roi_size`;
            None for backends other than `eager`, which do not run the network

        Raises:
            RuntimeError: the network does not accept the window.
            ValueError: the output of the network is not a single tensor of logits with the size of the window.
        """
        if self.backend != "eager":  # would compile for a shape that is not used again
            return None
        patch_size = ensure_tuple_rep(self.patch_size or self.roi_size, 3)
        if self.automatic or self.automatic_batch:
            self._needs_of(network, channels, patch_size)
        self._networks.refresh(network)  # so that the first volume does not clear the cache
        _, member = next(members(network, self.checkpoints))
        return self._logits(torch.zeros(1, channels, *patch_size, device=device), (None, member), 1)

    def slabs(self, inputs: torch.Tensor, network: Network, axis: int | None = None) -> ScoreSlabs:
        """Return an iterator over the logits of one volume, computed on demand slab by slab.

        Args:
            inputs: (1, C, X, Y, Z), floating point, on any device.
            network: function from windows (B, C, *roi_size) to logits (B, num_classes, *roi_size).
            axis: axis (0, 1 or 2) along which the slabs are ordered. Default: None (the axis that needs the least
                memory).

        Returns:
            iterator over pairs of the start index of a slab along its `axis`, and the float32 logits (num_classes, X,
            Y, Z) of the slab; the next slab overwrites them (see `ScoreSlabs`)

        Raises:
            ValueError: `inputs` is not a single 3D volume, or the overlap is invalid; or the output of the network is
                not a single tensor of logits with the size of the windows (raised during iteration).
            NonFiniteLogitsError: logits are NaN or infinite (raised during iteration).
            torch.OutOfMemoryError: a single window does not fit into the memory of the GPU (raised during iteration).
        """
        if inputs.ndim != 5 or len(inputs) != 1:
            raise ValueError(f"inputs must be one volume (1, C, X, Y, Z), got shape {tuple(inputs.shape)}.")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        owner = next(network.parameters(), volume) if isinstance(network, torch.nn.Module) else volume
        device = torch.empty(0, device=self.sw_device).device if self.sw_device else owner.device
        shape = volume.shape[2:]
        roi, overlap = fall_back_tuple(self.roi_size, shape), ensure_tuple_rep(self.overlap, 3)
        if self.automatic and normalizes_by_window(network):
            self._log_window_size()
        elif self.automatic:
            needs = self._needs_of(network, volume.shape[1], roi)
            roi, overlap = choose_windows(shape, roi, overlap, needs, device)
        plan = plan_windows(shape, roi, overlap, axis)
        return ScoreSlabs(shape, plan.axis, self._slabs(volume, network, plan, device), plan.roi)

    def _log_window_size(self) -> None:
        if not self._logged:
            _logger.info(
                "window_size auto: windows have the size of patch_size, since this network normalizes by statistics of "
                "the window, and larger windows can change the result. Set a size to try larger windows."
            )
        self._logged = True

    def _batch_size(self, network: Network, channels: int, plan: WindowPlan, device: torch.device) -> int:
        if not self.automatic_batch and (device.type != "cpu" or self.sw_batch_size <= _UNCHECKED_BATCH):
            return self.sw_batch_size
        needs = self._needs_of(network, channels, plan.roi)
        return choose_batch(needs, plan.roi, device, None if self.automatic_batch else self.sw_batch_size)

    def _needs_of(self, network: Network, channels: int, roi: Sequence[int]) -> Needs:
        if self._needs is None or self._needs[:2] != (network, channels):
            needs = measured_needs(network, channels, ensure_tuple_rep(self.patch_size or roi, 3))
            self._needs = (network, channels, needs)
        return self._needs[2]

    @torch.inference_mode()
    def _slabs(self, volume: torch.Tensor, network: Network, plan: WindowPlan, device: torch.device) -> Iterator[Slab]:
        self._networks.refresh(network)
        volume = _padded(volume, plan, self.padding_mode, self.cval)
        if has_room(volume.nbytes, device):
            volume = volume.to(device)
        batch = self._batch_size(network, volume.shape[1], plan, device)
        groups = list(plan.groups(at_least=batch))
        thickness = max(group[-1][plan.axis] - group[0][plan.axis] for group in groups) + plan.roi[plan.axis]
        weights = compute_importance_map(plan.roi, self.mode, self.sigma_scale, device, torch.float32)
        buffer = SlabBuffer(plan, weights, thickness, torch.device(self.device) if self.device else None)
        scan = _unpadded(volume, plan) if self.skip_air else volume
        air = _air_level(scan) if self.skip_air else None
        total = sum(map(len, groups))
        with tqdm(total=total, desc="windows", leave=False, disable=None if self.progress else True) as bar:
            for index, group in enumerate(groups):
                buffer.move_to(group[0][plan.axis])
                computed = [place for place in group if air is None or _has_tissue(air, scan, place, plan)]
                only_air = not computed and buffer.empty
                if only_air:
                    computed = group[:1]  # to get the number of classes
                for checkpoint, member in members(network, self.checkpoints):
                    for places in _batches(computed, batch):
                        self._compute(places, volume, (checkpoint, member), buffer, device, plan.roi, batch)
                        bar.update(len(places) / max(len(self.checkpoints), 1))
                if only_air:
                    buffer.clear()
                bar.update(len(group) - len(computed))
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
        """Add the logits of windows to the buffer, with smaller batches if memory is insufficient."""
        most = len(places) if self._max_batch is None else min(self._max_batch, len(places))
        for first in range(0, len(places), most):
            part = places[first : first + most]
            error = None
            try:
                buffer.add(self._logits(_cut(volume, part, roi, device), member, batch), part)
            except torch.OutOfMemoryError as caught:
                error = caught.with_traceback(None)  # so that the tensors of the batch are freed
            if error is None:
                continue
            torch.cuda.empty_cache()
            if len(part) > 1:
                self._max_batch = len(part) // 2
            elif not buffer.move_to_cpu(device):
                raise error
            self._compute(part, volume, member, buffer, device, roi, batch)

    def _logits(self, windows: torch.Tensor, member: Member, batch: int) -> torch.Tensor:
        """Return logits (B, num_classes, X, Y, Z) of windows (B, C, X, Y, Z), averaged over the flips."""
        count = len(windows)
        if self.backend != "eager" and self._max_batch is None and count < batch:  # same shape for all batches
            windows = torch.cat([windows, windows[-1:].expand(batch - count, *windows.shape[1:])])
        run = self._networks.get(member, windows)
        total = run(windows)
        if not isinstance(total, torch.Tensor) or total.shape[2:] != windows.shape[2:]:
            raise _UnsupportedOutputError(
                "slabs need a network that returns one tensor of logits with the size of the windows."
            )
        if self._flips:
            total = total.float().clone()
            for dims in self._flips:
                total += run(windows.flip(dims)).flip(dims)
            total /= len(self._flips) + 1
        return total[:count]


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
    """Return the windows (B, C, *roi) of a volume (1, C, X, Y, Z), on the device of the network."""
    shape = (len(places), volume.shape[1], *roi)
    pinned = volume.device.type == "cpu" and device.type == "cuda"
    windows = torch.empty(shape, dtype=volume.dtype, device=volume.device, pin_memory=pinned)
    for window, (x, y, z) in zip(windows, places, strict=True):
        window.copy_(volume[0, :, x : x + roi[0], y : y + roi[1], z : z + roi[2]])
    return windows.to(device, non_blocking=True)


def _air_level(volume: torch.Tensor) -> torch.Tensor:
    """Return the air threshold of every channel, (C, 1, 1, 1)."""
    lowest, highest = (pick(volume[0], dim=(1, 2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
    return lowest + _AIR_FRACTION * (highest - lowest)


def _has_tissue(air: torch.Tensor, scan: torch.Tensor, place: Place, plan: WindowPlan) -> bool:
    """Return whether a window contains values above the air threshold, without the padding."""
    starts = [start - before for start, (before, _) in zip(place, plan.padding, strict=True)]
    x, y, z = (slice(max(start, 0), start + size) for start, size in zip(starts, plan.roi, strict=True))
    window = scan[0, :, x, y, z]
    return bool((window.amax(dim=(1, 2, 3), keepdim=True) > air).any())


def _batches(places: Sequence[Place], most: int) -> Iterator[Sequence[Place]]:
    """Yield the positions in the smallest number of batches of at most `most`, all of similar size."""
    count = -(-len(places) // most)
    for index in range(count):
        yield places[index * len(places) // count : (index + 1) * len(places) // count]
