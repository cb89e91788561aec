"""Cases of a group are on one side of every fold; the group is a key, a column or a part of the name."""

import json

import numpy as np
import pytest

from segbundle.datasets.datalist import dataset_folds, labeled_data
from segbundle.errors import ConfigError, DataError
from tiny import TINY_CLASSES, write_nifti

NAMES = [f"p{patient}_{visit}" for patient in range(4) for visit in range(2)]
SITES = dict(zip(NAMES, ["Bern", "Bern", "Ulm", "Ulm", "Bern", "Bern", "Graz", "Graz"], strict=True))


@pytest.fixture
def dataset(tmp_path):
    """Eight cases of four patients and three sites; class 1 is in every case, class 2 in two cases of Bern."""
    for name in NAMES:
        labels = np.zeros((4, 4, 4), np.uint8)
        labels[0] = 1
        labels[1] = 2 if name in ("p0_0", "p0_1") else 0
        write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", np.zeros((4, 4, 4), np.int16))
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", labels)
    write_description(tmp_path)
    return tmp_path


def write_description(folder, **changes):
    entries = [
        {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz", "site": SITES[n], "age": 7}
        | changes.get(n, {})
        for n in NAMES
    ]
    (folder / "dataset.json").write_text(json.dumps({"training": entries}))


def held_out(folder, **options):
    split = dataset_folds(folder, TINY_CLASSES, **options)
    return [sorted(names) for _, names in split.folds]


@pytest.mark.parametrize("groups", [r"(p\d)_", "(p.)"])
def test_pattern_of_names(dataset, groups):
    folds = held_out(dataset, num_folds=4, groups=groups)
    assert sorted(folds) == [[f"p{p}_0", f"p{p}_1"] for p in range(4)]


def test_names_of_groups_do_not_change_random_folds(dataset):
    """Names of patients are hashes with a random salt, so another import must give the same folds."""
    folds = []
    for names in (["a", "b", "c", "d"], ["d", "c", "b", "a"], ["x", "a", "m", "c"]):
        write_description(dataset, **{name: {"patient": names[int(name[1])]} for name in NAMES})
        folds.append(held_out(dataset, num_folds=2))
    assert folds[0] == folds[1] == folds[2]
    assert all(len({name[:2] for name in fold}) == 2 and len(fold) == 4 for fold in folds[0])


def test_one_case_per_patient_gives_the_folds_without_patients(dataset):
    expected = held_out(dataset, num_folds=4)
    write_description(dataset, **{name: {"patient": str(9 - index)} for index, name in enumerate(NAMES)})
    assert held_out(dataset, num_folds=4) == expected


def test_one_fold_per_site(dataset):
    expected = [[n for n in NAMES if SITES[n] == site] for site in ("Bern", "Graz", "Ulm")]
    assert held_out(dataset, num_folds="groups", groups="site") == expected
    data = labeled_data(dataset, TINY_CLASSES, "validation", 1, "groups", groups="site")
    assert [entry["case"] for entry in data] == ["p3_0", "p3_1"]
    with pytest.raises(ConfigError, match=r"fold is 3, but the folds from one fold for each of .* are 0 to 2"):
        labeled_data(dataset, TINY_CLASSES, "validation", 3, "groups", groups="site")


def test_patients_stay_together_by_default(dataset):
    patients = {name: {"patient": f"x{name[:2]}"} for name in NAMES}
    write_description(dataset, **patients)
    for seed in range(5):
        folds = held_out(dataset, num_folds=4, split_seed=seed)
        assert sorted(folds) == [[f"p{p}_0", f"p{p}_1"] for p in range(4)]
    for others in ({name: {"patient": "x"} for name in NAMES}, dict(list(patients.items())[1:])):
        write_description(dataset, **others)
        assert len(held_out(dataset, num_folds=8)) == 8


@pytest.mark.parametrize(("name", "separator"), [("sites.csv", ","), ("sites.TSV", "\t")])
def test_column_of_a_table(dataset, tmp_path, name, separator):
    rows = ["case,hospital", *(f"{case},{site}" for case, site in SITES.items()), "other,Basel"]
    text = "\ufeff" + "\r\n".join(row.replace(",", separator) for row in rows)
    (dataset / name).write_text(text, encoding="utf-8")
    by_key = held_out(dataset, num_folds="groups", groups="site")
    assert held_out(dataset, num_folds="groups", groups=f"{name}:hospital") == by_key
    assert held_out(dataset, num_folds="groups", groups=f"{dataset / name}:hospital") == by_key


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ("sit", ConfigError, "no case has this key in dataset.json: did you mean 'site'"),
        (r"p(\d", ConfigError, "is not a regular expression"),
        (r"(p)(\d)", ConfigError, "one part in parentheses"),
        (r"(p0)_", DataError, r"groups is '\(p0\)_', but 6 of 8 labeled cases have no group: p1_0"),
        ("sites.csv:site", DataError, r"sites\.csv: cannot be read as a table"),
        ("dataset.json", ConfigError, "no case has this key"),
    ],
)
def test_invalid_groups_raise(dataset, groups, error, message):
    with pytest.raises(error, match=message):
        held_out(dataset, num_folds=2, groups=groups)


def test_missing_column_and_missing_case_raise(dataset):
    (dataset / "sites.csv").write_text("case,site\np0_0,Bern\n")
    with pytest.raises(DataError, match=r"sites\.csv: has no column 'sote': did you mean 'site'"):
        held_out(dataset, groups="sites.csv:sote")
    with pytest.raises(DataError, match="7 of 8 labeled cases have no group"):
        held_out(dataset, groups="sites.csv:site")
    (dataset / "sites.csv").write_bytes(b"case,site\n\xff\xfe,Bern\n")
    with pytest.raises(DataError, match=r"sites\.csv: cannot be read as a table"):
        held_out(dataset, groups="sites.csv:site")


def test_a_single_group_cannot_be_split(dataset):
    with pytest.raises(ConfigError, match="only one group of cases"):
        held_out(dataset, num_folds=2, groups="age")
    with pytest.raises(ConfigError, match="all cases are in one group"):
        held_out(dataset, num_folds="groups", groups="age")
    with pytest.raises(ConfigError, match="between 2 and the number of groups of cases, 3"):
        held_out(dataset, num_folds=4, groups="site")


def test_folds_of_the_dataset_must_not_divide_a_group(dataset):
    write_description(dataset, **{name: {"fold": int(name[-1])} for name in NAMES})
    assert held_out(dataset) == [NAMES[::2], NAMES[1::2]]
    with pytest.raises(DataError, match=r"fold 0 trains on p0_1 and holds out p0_0, .* the group 'p0'"):
        held_out(dataset, groups=r"(p\d)_")


def test_own_splits_replace_folds_of_the_dataset(dataset, tmp_path):
    write_description(dataset, **{name: {"fold": int(name[-1])} for name in NAMES})
    own = tmp_path / "mine.json"
    own.write_text(json.dumps([{"train": NAMES[:6], "val": NAMES[6:]}, {"train": NAMES[2:], "val": NAMES[:2]}]))
    assert held_out(dataset, splits=str(own)) == [NAMES[6:], NAMES[:2]]
    assert held_out(dataset, splits=str(own), groups=r"(p\d)_") == [NAMES[6:], NAMES[:2]]
    with pytest.raises(ConfigError, match="num_folds is 3, but"):
        held_out(dataset, splits=str(own), num_folds=3)
    own.write_text(json.dumps([{"train": NAMES[:7], "val": NAMES[6:]}]))
    with pytest.raises(DataError, match=r"mine\.json: fold 0 has p3_0 in both `train` and `val`"):
        held_out(dataset, splits=str(own))
    with pytest.raises(DataError, match=r"nowhere\.json"):
        held_out(dataset, splits=str(tmp_path / "nowhere.json"))


def test_rare_class_is_in_two_folds(dataset):
    rare = {"p0_0", "p0_1"}
    plain = {seed: held_out(dataset, num_folds=2, split_seed=seed, stratify=False) for seed in range(20)}
    together = [seed for seed, folds in plain.items() if any(rare <= set(fold) for fold in folds)]
    assert together
    for seed in together:
        assert [len(rare & set(fold)) for fold in held_out(dataset, num_folds=2, split_seed=seed)] == [1, 1]


def test_classes_in_every_case_do_not_change_the_split(dataset):
    write_nifti(dataset / "labelsTr" / "p0_0.nii.gz", np.ones((4, 4, 4), np.uint8))
    write_nifti(dataset / "labelsTr" / "p0_1.nii.gz", np.ones((4, 4, 4), np.uint8))
    for seed in range(5):
        assert held_out(dataset, split_seed=seed) == held_out(dataset, split_seed=seed, stratify=False)


def test_annotated_classes_are_spread(dataset):
    write_description(dataset, **{name: {"annotated": [TINY_CLASSES[1]]} for name in NAMES[2:]})
    for seed in range(8):
        folds = held_out(dataset, num_folds=2, split_seed=seed)
        assert all(len({"p0_0", "p0_1"} & set(fold)) == 1 for fold in folds)


def test_broken_label_map_does_not_stop_the_split(dataset):
    (dataset / "labelsTr" / "p0_0.nii.gz").write_bytes(b"no image")
    assert sorted(name for fold in held_out(dataset, num_folds=2) for name in fold) == NAMES
