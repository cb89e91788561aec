"""The steps of restoring labels, and all of them together on small grids, as scipy interpolates."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from segbundle.inference.slabs import ScoreSlabs
from segbundle.transforms import restoring
from segbundle.transforms.restoring import _Along, _Corners, restore_labels

SIZE, WANTED = (5, 4, 3), (4, 3, 6)


def grid(order, scales, offsets):
    """A map from wanted voxels to the network's: axis k of the wanted grid runs along axis `order[k]`."""
    to_grid = np.diag([0.0, 0, 0, 1])
    for k, (axis, scale, offset) in enumerate(zip(order, scales, offsets, strict=True)):
        to_grid[axis, k], to_grid[axis, 3] = scale, offset
    return to_grid


GRIDS = {
    "same": np.eye(4),
    "finer": grid((0, 1, 2), (0.5, 0.7, 0.4), (0.1, 0, 0.2)),
    "coarser": grid((0, 1, 2), (1.7, 1.3, 1.1), (-0.6, 0.4, 0)),
    "flipped": grid((0, 1, 2), (-1, 1, -0.5), (4, 0, 2)),
    "permuted": grid((2, 0, 1), (0.6, 1, 0.5), (0, 1, 0.25)),
    "one axis": grid((0, 1, 2), (1, 1, 0.4), (1, 0, 0.2)),
    "permuted and flipped": grid((1, 2, 0), (-0.8, 0.3, 0.7), (3.2, 0.5, -0.4)),
    "sheared": nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.2) * 0.7, [1, 0.4, -0.2]),
}


def scores_of(num_classes, size=SIZE):
    """Scores of classes that fill half of the volume each, and change from voxel to voxel where they meet."""
    scores = np.random.default_rng(num_classes).normal(size=(num_classes, *size)) * 2
    scores[0, : size[0] // 2, 1:] += 12
    scores[-1, size[0] // 2 + 1 :, :-1] += 12
    return torch.from_numpy(scores).float()


def interpolated(scores, to_grid, shape=WANTED):
    """Probabilities at every voxel of the wanted grid, in float64."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ to_grid[:3, :3].T + to_grid[:3, 3]
    return np.stack(
        [ndimage.map_coordinates(p, np.moveaxis(places, -1, 0), order=1, mode="nearest")
         for p in scores.double().softmax(dim=0).numpy()]
    )  # fmt: skip


def in_slabs(scores, axis, thickness):
    size = scores.shape[1 + axis]

    def slabs():
        for start in range(0, size, thickness):
            first = max(start - 1, 0)
            yield first, scores.narrow(1 + axis, first, min(start + thickness, size) - first).clone()

    return ScoreSlabs(scores.shape[1:], axis, slabs())


def assert_most_probable(labels, expected):
    largest = np.sort(expected, axis=0)
    clear = largest[-1] - largest[-2] > 1e-4
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels.numpy()[clear], expected.argmax(axis=0)[clear])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize(("mostly_mixed", "at_a_time"), [(0.2, 2**26), (0.0, 2**26), (1.0, 2**26), (1.0, 5), (0.0, 30)])
def test_labels_of_the_largest_interpolated_probability(monkeypatch, name, num_classes, mostly_mixed, at_a_time):
    monkeypatch.setattr(restoring, "_MOSTLY_MIXED", mostly_mixed)
    for constant in ("_VOXELS", "_VALUES", "_MIXED"):
        monkeypatch.setattr(restoring, constant, at_a_time)
    scores, to_grid = scores_of(num_classes), GRIDS[name]
    expected = interpolated(scores, to_grid)
    assert_most_probable(restore_labels(scores, to_grid, WANTED), expected)
    for axis, thickness in ((0, 1), (1, 2), (2, 1), (0, 3)):
        assert_most_probable(restore_labels(in_slabs(scores, axis, thickness), to_grid, WANTED), expected)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("at_a_time", [5, 50, 2**26])
def test_probabilities_beside_the_labels(monkeypatch, name, at_a_time):
    for constant in ("_VOXELS", "_VALUES"):
        monkeypatch.setattr(restoring, constant, at_a_time)
    scores, to_grid = scores_of(3), GRIDS[name]
    expected = interpolated(scores, to_grid)
    for given in (scores, in_slabs(scores, 1, 2), in_slabs(scores, 2, 1)):
        filled = np.full((4, *WANTED), 7, np.uint16)
        labels = restore_labels(given, to_grid, WANTED, lambda count, filled=filled: filled[:count])
        assert np.abs(filled[:3] / 65535 - expected).max() <= 0.51 / 65535 + 1e-6
        assert (filled[3] == 7).all()
        assert_most_probable(labels, expected)


def test_the_first_axis_of_labels_is_the_fastest():
    assert restore_labels(scores_of(3), np.eye(4), WANTED).stride() == (1, 4, 12)


@pytest.mark.parametrize("name", ["finer", "sheared"])
def test_a_single_voxel_along_an_axis(name):
    scores = scores_of(3, (5, 4, 1))
    assert_most_probable(restore_labels(scores, GRIDS[name], WANTED), interpolated(scores, GRIDS[name]))


def test_places_along_an_axis():
    along = _Along.at(np.array([-1, 0, 0.5, 9e-5, 1.1e-4, 2.75, 1.99995, 3, 9]), 4)
    assert along.lower.tolist() == [0, 0, 0, 0, 0, 2, 2, 3, 3]
    assert along.upper.tolist() == [0, 0, 1, 0, 1, 3, 2, 3, 3]
    assert along.weight.tolist() == pytest.approx([0, 0, 0.5, 0, 1.1e-4, 0.75, 0, 0, 0], abs=1e-7)
    assert along.weight.dtype == torch.float32
    assert along.aligned is False
    assert len(along) == 9
    part = along.part(slice(5, 8), 2)
    assert (part.lower.tolist(), part.upper.tolist(), part.weight.tolist()) == ([0, 0, 1], [1, 0, 1], [0.75, 0, 0])
    assert part.aligned is False
    assert along.triples()[5] == (2, 3, 0.75)
    matrix = _Along.at(np.array([0.25, 2.0]), 4).matrix(4)
    assert matrix.tolist() == [[0.75, 0], [0.25, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("positions", "size", "aligned", "own"),
    [
        ([0, 1, 2], 3, True, True),
        ([0, 1, 2], 4, True, False),
        ([2, 1, 0], 3, True, False),
        ([0, 1, 1], 3, True, False),
        ([0, 2, 2], 3, True, False),
        ([0, 0.5, 2], 3, False, False),
        ([0, 0.5, 1], 3, False, False),
    ],
)
def test_an_axis_that_needs_no_interpolation(positions, size, aligned, own):
    along = _Along.at(np.array(positions, float), size)
    assert along.aligned is aligned
    assert along.aligned_with(size) is own


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("voxels", "values", "most"), [(1, 1, 1), (6, 10**9, 1), (12, 10**9, 2), (10**9, 36, 2)])
def test_every_plane_is_restored_once_a_few_at_a_time(monkeypatch, dense, voxels, values, most):
    """Planes of 2 x 3 voxels and 3 classes; with probabilities 18 values each, without 6."""
    monkeypatch.setattr(restoring, "_VOXELS", voxels)
    monkeypatch.setattr(restoring, "_VALUES", values)
    along = _Along.at(np.arange(9) * 0.5, 5)
    across = [_Along.at(np.arange(count, dtype=float), count) for count in (2, 3)]
    done, sizes = [], []
    for start, thick in ((0, 2), (1, 2), (2, 1), (2, 3)):
        slab = torch.zeros(3, thick, 2, 3)
        for planes, first, local in restoring._ready_planes(along, start, slab, across, dense):
            done += range(planes.start, planes.stop)
            sizes.append(planes.stop - planes.start)
            assert len(local) == sizes[-1]
            assert int(local.lower.min()) == 0
            assert 0 <= first <= first + int(local.upper.max()) < thick
            assert (local.lower + first + start).tolist() == along.lower[planes].tolist()
    assert done == list(range(9))
    assert max(sizes) == (4 if values == 36 and not dense else most)  # four are all that are ready at a time


def test_cells_between_different_labels():
    labels = torch.tensor([[[0, 0, 1]], [[0, 0, 1]], [[2, 0, 1]]], dtype=torch.uint8)
    between, own = _Along.at(np.array([0.5]), 3), _Along.at(np.arange(3.0), 3)
    one = _Along.at(np.array([0.0]), 1)
    along_last = restoring._differ(labels, (own, one, between))
    assert along_last.int().tolist() == [[[0, 1, 0]], [[0, 1, 0]], [[1, 1, 0]]]
    along_both = restoring._differ(labels, (between, one, between))
    assert along_both.int().tolist() == [[[0, 1, 0]], [[1, 1, 0]], [[1, 1, 0]]]
    assert not restoring._differ(labels, (own, one, own)).any()
    lower = restoring._at_lower_corner(labels, (between, one, _Along.at(np.array([0.5, 2]), 3)))
    assert lower.tolist() == [[[0, 1]]]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("mostly_mixed", [0.0, 1.0])
def test_overlapping_classes_are_painted_where_their_probability_exceeds_one_half(monkeypatch, name, mostly_mixed):
    monkeypatch.setattr(restoring, "_MOSTLY_MIXED", mostly_mixed)
    scores, to_grid, order = scores_of(4) - 1, GRIDS[name], (2, 3, 1)
    places = np.stack(np.meshgrid(*map(np.arange, WANTED), indexing="ij"), -1) @ to_grid[:3, :3].T + to_grid[:3, 3]
    expected = np.stack(
        [ndimage.map_coordinates(p, np.moveaxis(places, -1, 0), order=1, mode="nearest")
         for p in scores.double().sigmoid().numpy()]
    )  # fmt: skip
    painted = np.zeros(WANTED, int)
    for index in order:
        painted[expected[index] > 0.5] = index
    clear = (np.abs(expected - 0.5) > 1e-5).all(axis=0)
    filled = np.zeros((4, *WANTED), np.uint16)
    for labels in (
        restore_labels(scores, to_grid, WANTED, paint_order=order),
        restore_labels(in_slabs(scores, 1, 2), to_grid, WANTED, paint_order=order),
        restore_labels(scores, to_grid, WANTED, lambda count: filled, order),
    ):
        np.testing.assert_array_equal(labels.numpy()[clear], painted[clear])
    np.testing.assert_allclose(filled / 65535, expected, atol=1e-4)
    assert len(np.unique(painted)) >= 3


def test_probabilities_only_at_corners_of_mixed_cells():
    scores = torch.tensor([[4.0, 4, 0, 0, 0], [0, 0, 4, 4, 4]]).reshape(2, 1, 1, 5)
    cells = (_Along.at(np.array([0.0]), 1), _Along.at(np.array([0.0]), 1), _Along.at(np.array([0.5, 1.25, 1.75]), 5))
    mixed = restoring._differ(scores.argmax(0), cells)
    assert mixed.flatten().tolist() == [False, True, False, False, False]
    corners = _Corners.of(scores, mixed, cells, None)
    assert corners.probabilities.shape == (2, 2)
    assert corners.probabilities[:, 0].tolist() == pytest.approx([1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))])
    assert corners.row.flatten()[1:3].tolist() == [0, 1]
    assert corners.most_probable(torch.tensor([1, 2]), cells).tolist() == [0, 1]
    beside = torch.cat([scores, torch.zeros_like(scores)], dim=1)  # along an axis that needs no interpolation
    cells = (_Along.at(np.array([0.0, 1.0]), 2), *cells[1:])
    assert len(_Corners.of(beside, restoring._differ(beside.argmax(0), cells), cells, None).probabilities) == 2


@pytest.mark.parametrize(("ones", "between", "everywhere"), [([1], 2, False), ([0, 2], 3, True)])
def test_all_voxels_are_interpolated_where_many_are_mixed(monkeypatch, ones, between, everywhere):
    """More than a fifth of ten voxels are between different labels; the result is the same either way."""
    calls = []
    original = restoring._most_probable_everywhere
    monkeypatch.setattr(restoring, "_most_probable_everywhere", lambda *given: calls.append(1) or original(*given))
    scores = torch.zeros(3, 11, 1, 1)
    scores[0], scores[1, ones] = 5, 9
    largest = scores.argmax(0)
    assert int((largest[1:] != largest[:-1]).sum()) == between
    to_grid = nib.affines.from_matvec(np.eye(3), [0.4, 0, 0])
    assert_most_probable(restore_labels(scores, to_grid, (10, 1, 1)), interpolated(scores, to_grid, (10, 1, 1)))
    assert bool(calls) is everywhere


def test_planes_are_interpolated_axis_by_axis():
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    cells = [_Along.at(np.array(at), size) for at, size in (([0, 0.5, 1], 2), ([0.25, 2], 3), ([0, 1.5], 4))]
    planes = [plane.clone() for plane in restoring._interpolated_planes(values, cells)]
    expected = [[[x * 12 + y * 4 + z for z in (0, 1.5)] for y in (0.25, 2)] for x in (0, 0.5, 1)]
    assert torch.stack(planes)[:, 0].tolist() == expected
    own = [_Along.at(np.arange(size, dtype=float), size) for size in (2, 3, 4)]
    assert torch.equal(torch.stack(list(restoring._interpolated_planes(values, own)), dim=1), values)


def test_axis_with_the_length_of_another_axis_is_interpolated():
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    cells = [_Along.at(np.array(at), size) for at, size in (([0, 1.0], 2), ([1.0, 2], 3), ([0, 1.5], 4))]
    planes = torch.stack([plane.clone() for plane in restoring._interpolated_planes(values, cells)])
    assert planes[:, 0].tolist() == [[[x * 12 + y * 4 + z for z in (0, 1.5)] for y in (1, 2)] for x in (0, 1)]


@pytest.mark.parametrize("name", ["finer", "sheared"])
@pytest.mark.parametrize(("values", "planes"), [(1, 1), (2 * 3 * 3 * 6, 2)])
def test_number_of_planes_per_step_is_limited(monkeypatch, name, values, planes):
    """Planes of 3 x 6 voxels in 3 classes; one where none fits."""
    sizes = []
    interpolate, sample = restoring._interpolated_planes, torch.nn.functional.grid_sample
    monkeypatch.setattr(restoring, "_VALUES", values)
    monkeypatch.setattr(restoring, "_MOSTLY_MIXED", -1)
    monkeypatch.setattr(
        restoring, "_interpolated_planes", lambda p, cells: sizes.append(len(cells[0])) or interpolate(p, cells)
    )
    monkeypatch.setattr(
        torch.nn.functional, "grid_sample", lambda v, at, **kw: sizes.append(at.shape[1]) or sample(v, at, **kw)
    )
    restore_labels(scores_of(3), GRIDS[name], WANTED)
    assert sizes == [planes] * (WANTED[0] // planes)


def test_slab_too_large_for_cpu_memory_raises(monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(restoring, "_restore_slab", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        restore_labels(scores_of(3), np.eye(4), WANTED)
