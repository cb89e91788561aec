"""Label values of a dataset as the classes of a task: gaps, subsets, merged values, and regions."""

import json

import numpy as np
import pytest
import torch

from segbundle.datasets.case import Case
from segbundle.datasets.datalist import dataset_folds, labeled_data
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.datasets.label_values import dataset_labels
from segbundle.errors import DataError
from segbundle.planning.dataset_fingerprint import measure_dataset
from segbundle.transforms.before_network import LoadScand
from segbundle.transforms.preparing import PrepareCase
from tiny import write_description, write_nifti

ORGANS = {"background": 0, "liver": 5, "left kidney": 2, "right kidney": 3, "ignore": 9}
MERGED = {"liver": "liver", "kidney": ["left kidney", "right kidney"]}
TUMOR = {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": [4]}
NAMES = ["background", "whole", "core", "enhancing"]


@pytest.fixture
def dataset(tmp_path):
    """Return a function that writes a dataset with the given label values along one axis of every label map."""

    def write(labels, values, num_cases=1, **entry):
        array = np.array(values, np.uint8).reshape(-1, 1, 1).repeat(3, axis=1).repeat(2, axis=2)
        entries = []
        for number in range(num_cases):
            write_nifti(tmp_path / f"{number}.nii", np.arange(array.size, dtype=np.int16).reshape(array.shape))
            write_nifti(tmp_path / f"{number}_seg.nii", array)
            entries.append({"image": f"{number}.nii", "label": f"{number}_seg.nii", **entry})
        write_description(tmp_path, **({"labels": labels} if labels else {}), training=entries)
        return tmp_path

    return write


def loaded(entry, class_names):
    case = LoadScand(class_names, label=True)(dict(entry))
    return case["label"].as_tensor()[0, :, 0, 0].tolist(), case["annotated"].tolist()


def test_values_with_a_gap_are_loaded_as_indices(dataset):
    folder = dataset(ORGANS, [0, 5, 2, 3, 9])
    names = ["background", "left kidney", "right kidney", "liver"]
    (entry,) = labeled_data(folder, names)
    assert loaded(entry, names) == ([0, 3, 1, 2, 255], [True] * 4)


@pytest.mark.parametrize("classes", [MERGED, {"liver": 5, "kidney": [2, 3]}])
def test_subset_and_merged_values(dataset, classes):
    folder = dataset(ORGANS, [0, 5, 2, 3, 9])
    names = ["background", "liver", "kidney"]
    (entry,) = labeled_data(folder, names, classes=classes)
    assert loaded(entry, names) == ([0, 1, 2, 2, 255], [True] * 3)
    (entry,) = labeled_data(folder, names[:2], classes={"liver": 5})
    assert loaded(entry, names[:2]) == ([0, 1, 0, 0, 255], [True] * 2)


def test_dataset_without_names_needs_values(dataset):
    folder = dataset(None, [0, 5, 2, 3, 200])
    (entry,) = labeled_data(folder, ["background", "liver"], classes={"liver": [5, 200]})
    assert loaded(entry, ["background", "liver"])[0] == [0, 1, 0, 0, 1]
    with pytest.raises(DataError, match=r"classes has the label 'liver', but the dataset has no `labels`"):
        labeled_data(folder, ["background", "liver"], classes={"liver": "liver"})


def test_regions_overlap_and_partial_labels_count_for_them(dataset):
    folder = dataset({**TUMOR, "ignore": 7}, [0, 2, 1, 4, 7])
    (entry,) = labeled_data(folder, NAMES, classes=TUMOR)
    assert loaded(entry, NAMES) == ([0, 1, 2, 3, 255], [True] * 4)
    prepared = PrepareCase(NAMES, (4, 4, 4), {"method": "zscore"}, classes=TUMOR)(dict(entry))
    voxels = [len(indices) for indices in prepared["indices"]]
    assert voxels[1:] == [18, 12, 6]
    assert [round(one["volume_ml"] * 1000) for one in prepared["measures"]][1:] == [18, 12, 6]


def test_a_class_is_annotated_if_all_its_values_are(tmp_path):
    write_description(tmp_path, labels={"0": "background", "1": "core", "2": "edema", "4": "enhancing"})
    classes = {"whole": ["core", "edema", "enhancing"], "tumor core": ["core", "enhancing"], "enhancing": "enhancing"}
    labels = dataset_labels(tmp_path, ["background", *classes], classes)

    def mask(*annotated):
        return labels.annotated_mask(Case("a", (), annotated=annotated))[1:]

    assert mask("core", "edema", "enhancing") == [True, True, True]
    assert mask("core", "enhancing") == [False, True, True]
    assert mask("edema", "enhancing") == [False, False, True]
    assert mask("whole") == [True, False, False]
    with pytest.raises(DataError, match=r"case a: its `annotated` list .* unknown class 'edem'"):
        mask("edem")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"liver": 7}, r"has the label value 7, but the dataset has 0, 2, 3, 5"),
        ({"liver": "livr"}, r"has the label 'livr', which is not in the dataset: did you mean 'liver'"),
        ({"liver": [5, "liver"]}, r"contains the label value 5 also as a name"),
        ({"liver": 9}, r"has the label value 9, but the dataset has"),
    ],
)
def test_unknown_values_and_names_raise(dataset, classes, message):
    with pytest.raises(DataError, match=r"dataset\.json: classes " + message):
        labeled_data(dataset(ORGANS, [0, 5]), ["background", "liver"], classes=classes)


def test_stray_values_of_a_label_map_are_still_found(dataset):
    folder = dataset(ORGANS, [0, 5, 4])
    names = ["background", "left kidney", "right kidney", "liver"]
    with pytest.raises(DataError, match=r"label value\(s\) \[4\] that are not among the `labels`"):
        loaded(labeled_data(folder, names)[0], names)
    ((_, (problem,)),) = DatasetCheck(folder, names)
    assert "label value(s) [4]" in problem


def test_contradicting_order_of_regions_raises(dataset, tmp_path):
    def check(order, labels=TUMOR):
        write_description(tmp_path, labels=labels, regions_class_order=order)
        return dataset_labels(tmp_path, NAMES, TUMOR)

    assert check([2, 1, 4]).loaded == {0: 0, 1: 2, 2: 1, 4: 3}
    with pytest.raises(DataError, match="needs one label value for each of the 3 regions"):
        check([2, 1])
    with pytest.raises(DataError, match="gives core the value 2, which is not one of its label values"):
        check([2, 2, 4])
    turned = {"background": 0, "core": [1, 4], "whole": [1, 2, 4], "enhancing": [4]}
    with pytest.raises(DataError, match="names core before whole, which contains it"):
        check([1, 2, 4], turned)


def test_overlapping_labels_of_a_dataset_need_classes_in_the_task(dataset):
    folder = dataset(TUMOR, [0, 2, 1, 4])
    with pytest.raises(DataError, match=r"its `labels` overlap\. Add them to the task as classes: \{background: 0, wh"):
        labeled_data(folder, NAMES)
    check = DatasetCheck(folder, NAMES, classes=TUMOR)
    assert [problems for _, problems in check] == [[]]
    assert {name: tally.labeled for name, tally in check.tallies.items()} == dict.fromkeys(NAMES[1:], 1)


def test_voxels_of_an_unannotated_region_are_found(dataset):
    folder = dataset(TUMOR, [0, 2, 1, 4], annotated=["core", "enhancing"])
    (entry,) = labeled_data(folder, NAMES, classes=TUMOR)
    assert entry["annotated"] == [True, False, True, True]
    assert loaded(entry, NAMES)[0] == [0, 1, 2, 3]
    ((_, (problem,)),) = DatasetCheck(folder, NAMES, classes=TUMOR)
    assert "contains class 'whole' (2), but the `annotated` list" in problem  # voxels in no other region


def test_a_merged_class_of_which_some_values_are_annotated(dataset):
    folder = dataset(ORGANS, [0, 5, 2], annotated=["left kidney", "liver"])
    (entry,) = labeled_data(folder, ["background", "liver", "kidney"], classes=MERGED)
    assert loaded(entry, ["background", "liver", "kidney"]) == ([0, 1, 2], [True, True, False])
    assert [found for _, found in DatasetCheck(folder, ["background", "liver", "kidney"], classes=MERGED)] == [[]]


def test_first_classes_of_a_dataset_are_a_subset(dataset):
    folder = dataset({"background": 0, "liver": 1, "kidney": 2, "ignore": 3}, [0, 1, 2, 3], annotated=["liver"])
    (entry,) = labeled_data(folder, ["background", "organ"], classes={"organ": 1})
    assert loaded(entry, ["background", "organ"]) == ([0, 1, 0, 255], [True, True])
    with pytest.raises(DataError, match="label value 3"):
        labeled_data(folder, ["background", "organ", "x", "y"], classes={"organ": 1, "x": 2, "y": 3})


def test_named_segments_are_not_renumbered_by_classes(dataset, tmp_path):
    from segbundle.segmentations.class_entries import class_table
    from segbundle.segmentations.seg_nrrd import write_seg_nrrd

    folder = dataset({"background": 0, "liver": 1, "kidney": 2}, [0, 1, 2])
    path = tmp_path / "0.seg.nrrd"
    write_seg_nrrd(np.ones((3, 3, 2), np.uint8), tmp_path / "0.nii", path, class_table(["background", "liver"]))
    write_description(folder, labels={"background": 0, "liver": 1, "kidney": 2},
                      training=[{"image": "0.nii", "label": path.name}])  # fmt: skip
    (entry,) = labeled_data(folder, ["background", "kidney", "liver"], classes={"kidney": 2, "liver": 1})
    with pytest.raises(DataError, match=r"0\.seg\.nrrd: its segments have names"):
        loaded(entry, ["background", "kidney", "liver"])


def test_folds_are_stratified_by_classes_with_other_values(dataset, tmp_path):
    folder = dataset(ORGANS, [0, 2, 3], num_cases=4)
    write_nifti(tmp_path / "2_seg.nii", np.full((3, 3, 2), 5, np.uint8))
    write_nifti(tmp_path / "3_seg.nii", np.full((3, 3, 2), 5, np.uint8))
    for seed in range(5):
        split = dataset_folds(folder, ["background", "liver", "kidney"], 2, seed, classes=MERGED)
        assert [{"liver": any(c in "23" for c in held), "kidney": any(c in "01" for c in held)}
                for _, held in split.folds] == [{"liver": True, "kidney": True}] * 2  # fmt: skip


def test_fingerprint_counts_classes_by_their_values(dataset):
    found = measure_dataset(dataset(TUMOR, [0, 2, 1, 4]))
    assert (found.class_names, found.classes) == (NAMES, TUMOR)
    assert found.cases[0].voxels == {0: 6, 1: 18, 2: 12, 3: 6}
    found = measure_dataset(dataset(None, [0, 7, 7, 200]))
    assert (found.class_names, found.classes) == (
        ["background", "label_7", "label_200"], {"label_7": 7, "label_200": 200},
    )  # fmt: skip
    assert found.cases[0].voxels == {0: 6, 1: 12, 2: 6}


def test_entries_can_be_written_as_json(dataset):
    (entry,) = labeled_data(dataset(ORGANS, [0, 5]), ["background", "liver", "kidney"], classes=MERGED)
    assert json.loads(json.dumps(entry))["label_values"] == {"0": 0, "2": 2, "3": 2, "5": 1}
    assert torch.tensor(entry["annotated"]).all()
