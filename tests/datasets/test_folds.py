"""Folds that a dataset defines take precedence over random folds and must match `num_folds`."""

import json

import numpy as np
import pytest

from segbundle.datasets.datalist import dataset_folds, labeled_data
from segbundle.datasets.folds import refuse_repeated_cases
from segbundle.errors import ConfigError, DataError
from tiny import TINY_CLASSES, write_nifti

NAMES = [f"c{index}" for index in range(6)]


def write_dataset(folder, folds=None, **content):
    """Write six labeled cases; `folds` sets the `fold` of each entry."""
    for name in NAMES:
        for kind in ("images", "labels"):
            write_nifti(folder / f"{kind}Tr" / f"{name}.nii.gz", np.zeros((2, 2, 2), np.uint8))
    entries = [entry(name) for name in NAMES]
    for item, fold in zip(entries, folds or [], strict=False):
        if fold is not None:
            item["fold"] = fold
    (folder / "dataset.json").write_text(json.dumps({"training": entries, **content}))
    return folder


def entry(name):
    return {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"}


def num_folds_of(folder, num_folds):
    split = dataset_folds(folder, TINY_CLASSES, num_folds)
    refuse_repeated_cases(split)
    return len(split.folds)


def chosen(folder, section, fold, num_folds=5):
    data = labeled_data(folder, TINY_CLASSES, section, fold, num_folds)
    return "".join(item["case"][1] for item in data)


def test_fold_keys(tmp_path, caplog):
    write_dataset(tmp_path, [1, 0, 0, 1, 2, 2])
    with caplog.at_level("INFO"):
        assert [chosen(tmp_path, "validation", fold) for fold in range(3)] == ["12", "03", "45"]
    assert "3 fold(s) from the `fold` keys of dataset.json" in caplog.text
    assert [chosen(tmp_path, "training", fold) for fold in range(3)] == ["0345", "1245", "0123"]
    assert chosen(tmp_path, "training", None) == chosen(tmp_path, "all", 0) == "012345"
    assert num_folds_of(tmp_path, 5) == num_folds_of(tmp_path, 3) == 3


def test_contradictory_num_folds_raises(tmp_path):
    write_dataset(tmp_path, [1, 0, 0, 1, 2, 2])
    with pytest.raises(ConfigError, match=r"num_folds is 2, but the dataset .* has 3 folds\. Use --num_folds 3"):
        chosen(tmp_path, "training", 0, num_folds=2)
    with pytest.raises(ConfigError, match=r"fold is 3, but the folds from the `fold` keys of dataset\.json are 0 to 2"):
        chosen(tmp_path, "training", 3)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([0, 1, None, 0, 1, None], r"2 of 6 labeled cases have no `fold` \(c2, c5\)"),
        ([0, 0, 0, 2, 2, 2], "the `fold` keys are 0, 2; they must be 0, 1, 2"),
        ([0] * 6, "for at least two folds"),
    ],
)
def test_invalid_fold_keys_raise(tmp_path, folds, message):
    with pytest.raises(DataError, match=message):
        chosen(write_dataset(tmp_path, folds), "training", 0)
    assert chosen(tmp_path, "training", None) == "012345"


@pytest.mark.parametrize("key", ["Fold", "FOLD", "fold_id", "fold-id", "split", "cv_fold", "kfold"])
def test_other_spellings_of_fold_raise(tmp_path, key):
    entries = [{**entry(name), key: number % 2} for number, name in enumerate(NAMES)]
    write_dataset(tmp_path, training=entries)
    for fold in (0, None):
        with pytest.raises(DataError, match=rf"training\[0\] has the unknown key '{key}': did you mean 'fold'"):
            chosen(tmp_path, "training", fold)


@pytest.mark.parametrize("key", ["n_folds", "numFolds", "Folds", "num-folds", "NUM_FOLDS", "splits", "n_splits"])
def test_other_spellings_of_num_folds_raise(tmp_path, key):
    write_dataset(tmp_path, **{key: 3})
    with pytest.raises(DataError, match=rf"dataset\.json: unknown key '{key}': did you mean 'num_folds'"):
        chosen(tmp_path, "training", 0)


@pytest.mark.parametrize("name", ["splits_final.pkl", "Splits_Final.json", "splits.json", "splits-final.yaml"])
def test_unsupported_split_files_raise(tmp_path, caplog, name):
    write_dataset(tmp_path)
    (tmp_path / name).write_text("[]")
    for listing in (lambda: chosen(tmp_path, "training", 0), lambda: num_folds_of(tmp_path, 5)):
        with pytest.raises(DataError, match=rf"{name}: is not used: did you mean splits_final\.json"):
            listing()
    assert chosen(tmp_path, "training", None) == "012345"
    splits = [{"train": NAMES[:4], "val": NAMES[4:]}, {"train": NAMES[4:], "val": NAMES[:4]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    assert chosen(tmp_path, "validation", 0) == "45"
    assert f"{name}: is not used; folds come from splits_final.json" in caplog.text


def test_num_folds_in_dataset_json(tmp_path):
    write_dataset(tmp_path, num_folds=3)
    assert [len(chosen(tmp_path, "validation", fold)) for fold in range(3)] == [2, 2, 2]
    assert num_folds_of(tmp_path, 5) == 3
    with pytest.raises(ConfigError, match="num_folds is 2, but the dataset"):
        num_folds_of(tmp_path, 2)
    write_dataset(tmp_path, [0, 1] * 3, num_folds=3)
    with pytest.raises(ConfigError, match=r"dataset\.json has num_folds 3, but 2 fold\(s\) come from the `fold` keys"):
        num_folds_of(tmp_path, 5)
    write_dataset(tmp_path, num_folds=1)
    with pytest.raises(ConfigError, match=r"dataset\.json: num_folds is 1; it must be at least 2"):
        num_folds_of(tmp_path, 5)


class TestValidationList:
    def write(self, folder, **content):
        write_dataset(folder, **content)
        description = json.loads((folder / "dataset.json").read_text())
        description["validation"] = [entry("c4"), entry("c5")]
        description["training"] = description["training"][:4]
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    def test_validation_list_is_fold_0(self, tmp_path):
        self.write(tmp_path)
        assert (chosen(tmp_path, "training", 0), chosen(tmp_path, "validation", 0)) == ("0123", "45")
        assert chosen(tmp_path, "training", None) == chosen(tmp_path, "all", 0) == "012345"
        with pytest.raises(
            ConfigError, match=r"fold is 1, but the only fold from the `validation` list of dataset\.json is 0"
        ):
            chosen(tmp_path, "validation", 1)

    def test_validation_list_does_not_allow_cross_validation(self, tmp_path):
        with pytest.raises(DataError, match=r"the `validation` list of dataset\.json defines only fold 0"):
            num_folds_of(self.write(tmp_path), 5)

    def test_validation_list_with_fold_keys_raises(self, tmp_path):
        with pytest.raises(DataError, match=r"the `fold` keys .* and the `validation` list .* both define folds"):
            chosen(self.write(tmp_path, folds=[0, 1] * 3), "training", 0)

    def test_validation_list_without_label_maps_raises(self, tmp_path):
        self.write(tmp_path)
        description = json.loads((tmp_path / "dataset.json").read_text())
        description["validation"] = ["imagesTr/c4.nii.gz"]
        (tmp_path / "dataset.json").write_text(json.dumps(description))
        with pytest.raises(DataError, match="no case of the `validation` list has a label map"):
            chosen(tmp_path, "training", 0)

    def test_case_in_both_lists_raises(self, tmp_path):
        self.write(tmp_path)
        description = json.loads((tmp_path / "dataset.json").read_text())
        description["training"].append(entry("c5"))
        (tmp_path / "dataset.json").write_text(json.dumps(description))
        with pytest.raises(DataError, match="two cases are named 'c5'"):
            chosen(tmp_path, "training", 0)


class TestSplitsFinal:
    def write(self, folder, *folds):
        write_dataset(folder)
        splits = [{"train": [f"c{n}" for n in train], "val": [f"c{n}" for n in val]} for train, val in folds]
        (folder / "splits_final.json").write_text(json.dumps(splits))
        return folder

    def test_splits_file_is_used(self, tmp_path):
        self.write(tmp_path, ("0123", "45"), ("2345", "01"))
        assert [chosen(tmp_path, "validation", fold) for fold in (0, 1)] == ["45", "01"]
        assert [chosen(tmp_path, "training", fold) for fold in (0, 1)] == ["0123", "2345"]
        assert num_folds_of(tmp_path, 5) == 2

    @pytest.mark.parametrize("fold", [-1, 2])
    def test_unknown_fold_raises(self, tmp_path, fold):
        self.write(tmp_path, ("0123", "45"), ("2345", "01"))
        with pytest.raises(ConfigError, match=rf"fold is {fold}, but the folds from splits_final\.json are 0 to 1"):
            chosen(tmp_path, "validation", fold)

    def test_unused_cases_are_logged(self, tmp_path, caplog):
        self.write(tmp_path, ("012", "45"), ("2345", "01"))
        assert chosen(tmp_path, "training", 0) == "012"
        assert "splits_final.json: fold 0 does not use 1 of 6 labeled cases (c3)" in caplog.text

    def test_cases_in_no_validation_fold_are_logged(self, tmp_path, caplog):
        self.write(tmp_path, ("0134", "25"), ("2345", "01"))
        assert chosen(tmp_path, "validation", 0) == "25"
        assert "2 of 6 labeled cases (c3, c4) are in no validation fold, so a cross-validation never" in caplog.text

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            (
                (("0189", "45"), ("1", "0")),
                r"fold 0 names 2 case\(s\) that are not labeled cases of the dataset \(c8, c9\)",
            ),
            ((("0145", "45"), ("1", "0")), "fold 0 has c4, c5 in both `train` and `val`"),
            ((("01", ""), ("1", "0")), "fold 0 has no cases in `val`"),
            ((), "contains no folds"),
        ],
    )
    def test_splits_that_contradict_cases_raise(self, tmp_path, folds, message):
        with pytest.raises(DataError, match=message):
            chosen(self.write(tmp_path, *folds), "training", 0)

    @pytest.mark.parametrize("content", ["{}", '[{"train": ["c0"]}]', '[{"train": "c0", "val": ["c1"]}]', "[3]", "["])
    def test_wrong_types_raise_in_one_line(self, tmp_path, content):
        write_dataset(tmp_path)
        (tmp_path / "splits_final.json").write_text(content)
        with pytest.raises(DataError, match=r"splits_final\.json: [^\n]+$"):
            chosen(tmp_path, "training", 0)

    def test_broken_link_raises(self, tmp_path):
        write_dataset(tmp_path)
        (tmp_path / "splits_final.json").symlink_to("nowhere")
        with pytest.raises(DataError, match=r"splits_final\.json: no such file"):
            chosen(tmp_path, "training", 0)

    def test_case_held_out_twice_raises(self, tmp_path):
        self.write(tmp_path, ("0123", "45"), ("0123", "45"))
        with pytest.raises(DataError, match=r"has 2 case\(s\) in several validation folds \(c4, c5\)"):
            num_folds_of(tmp_path, 5)


def test_one_labeled_case_needs_fold_null(tmp_path):
    write_dataset(tmp_path, training=[entry("c0")])
    with pytest.raises(ConfigError, match=r"only one labeled case.* Use --fold null"):
        chosen(tmp_path, "training", 0)
    assert chosen(tmp_path, "training", None) == "0"
