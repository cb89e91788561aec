"""Commands on datasets of other programs: each layout is checked, trained on and evaluated as its program writes it."""

import csv
import json
import shutil

import nibabel as nib
import pytest

from commands import TINY, segbundle

SHORT = ("--config", TINY, "--max_epochs", "1", "--val_interval", "1")
CASES = [f"case_{number:02d}" for number in range(6)]


@pytest.fixture(scope="session")
def source(dataset, tmp_path_factory):
    """Return a copy of the dataset in which two label maps are stored with other axes than their images."""
    copy = shutil.copytree(dataset, tmp_path_factory.mktemp("source") / "tiny")
    for case, axes in ((CASES[1], [[0, -1], [1, -1], [2, 1]]), (CASES[4], [[2, 1], [0, -1], [1, 1]])):
        path = copy / "labelsTr" / f"{case}.nii.gz"
        nib.save(nib.load(path).as_reoriented(axes), path)
    return copy


def put(source, folder, images, labels):
    """Copy images and label maps to other names, with `{}` for the number of a case."""
    for number, case in enumerate(CASES):
        for kind, name in (("imagesTr", images), ("labelsTr", labels)):
            path = folder / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / kind / f"{case}.nii.gz", path)
    return folder


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def bids(source, folder):
    folder = put(
        source, folder, "sub-0{}/ses-1/anat/sub-0{0}_ses-1_T1w.nii.gz".replace("{}", "{0}"),
        "derivatives/manual/sub-0{0}/ses-1/anat/sub-0{0}_ses-1_dseg.nii.gz",
    )  # fmt: skip
    write(folder / "dataset_description.json", Name="tiny", BIDSVersion="1.9.0")
    return folder


def monai_label(source, folder):
    folder = put(source, folder, "scan_{}.nii.gz", "labels/final/scan_{}.nii.gz")
    (folder / "labels" / "original").mkdir()
    write(
        folder / "datastore_v2.json",
        name="new-dataset",
        description="",
        images_dir=".",
        labels_dir="labels",
        objects={},
    )
    return folder


def datalist(source, folder):
    put(source, folder / "data", "P{}/img.nii.gz", "P{}/label.nii.gz")
    entries = [{"image": f"P{n}/img.nii.gz", "label": f"P{n}/label.nii.gz", "fold": n % 3} for n in range(6)]
    return write(folder / "data" / "folds.json", training=entries, testing=[])


def auto3dseg(source, folder):
    path = datalist(source, folder)
    write(folder / "lists" / "folds.json", **json.loads(path.read_text()))
    path.unlink()
    return write(folder / "input.json", modality="MRI", datalist="lists/folds.json", dataroot=str(folder / "data"))


def nnunet_v1(source, folder):
    put(source, folder, "imagesTr/T_{}_0000.nii.gz", "labelsTr/T_{}.nii.gz")
    entries = [{"image": f"./imagesTr/T_{n}.nii.gz", "label": f"./labelsTr/T_{n}.nii.gz"} for n in range(6)]
    content = {
        "name": "T", "tensorImageSize": "4D", "modality": {"0": "MRI"}, "numTraining": 6, "numTest": 0, "test": [],
        "labels": {"0": "background", "1": "ball", "2": "cube"},
    }  # fmt: skip
    write(folder / "dataset.json", **content, training=entries)
    return folder


def nnunet_v2(source, folder, **content):
    put(source, folder, "imagesTr/T_{}_0000.nii.gz", "labelsTr/T_{}.nii.gz")
    labels = {"background": 0, "ball": 1, "cube": 2}
    write(
        folder / "dataset.json", channel_names={"0": "MRI"}, labels=labels, numTraining=6, file_ending=".nii.gz",
        **content,
    )  # fmt: skip
    return folder


def nnunet_mapping(source, folder):
    mapping = {
        f"case{n}": {"images": [f"imagesTr/T_{n}_0000.nii.gz"], "label": f"labelsTr/T_{n}.nii.gz"} for n in range(6)
    }
    return nnunet_v2(source, folder, dataset=mapping)


LAYOUTS = {
    bids: "BIDS (sub-*, derivatives)",
    monai_label: "MONAI Label study (labels/final)",
    datalist: "MONAI datalist (folds.json)",
    auto3dseg: "Auto3DSeg (input.json, datalist folds.json)",
    nnunet_v1: "nnU-Net v1 (dataset.json)",
    nnunet_v2: "nnU-Net raw (dataset.json, imagesTr, labelsTr)",
    nnunet_mapping: "nnU-Net raw (`dataset` mapping of dataset.json)",
}


def scores(folder):
    """Return Dice per case and class; cases are in the order of their names in every layout."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    return [(row["class"], row["dice"]) for row in sorted(rows, key=lambda row: (row["case"], row["class"]))]


@pytest.fixture(scope="session")
def expected(dataset, trained, tmp_path_factory):
    """Return the scores on the dataset as it was written."""
    out = tmp_path_factory.mktemp("expected") / "out"
    done = segbundle(
        "evaluate", "--config", TINY, "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt", "--output_dir", out
    )
    assert done.returncode == 0, done.stderr
    return scores(out)


@pytest.mark.parametrize("build", LAYOUTS, ids=lambda build: build.__name__)
def test_layouts_are_checked_evaluated_and_trained(build, source, expected, trained, tmp_path):
    dataset = build(source, tmp_path / "data")
    done = segbundle("check", dataset, "--config", TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 cases, no problem found. Classes: background, ball, cube.\n")
    assert f"Layout: {LAYOUTS[build]}\n" in done.stdout
    data = ("--dataset_dir", dataset)
    out = tmp_path / "evaluation"
    done = segbundle("evaluate", "--config", TINY, *data, "--ckpt_path", trained / "model.pt", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert scores(out) == expected
    assert "are on different grids" not in (out / "report.html").read_text(encoding="utf-8")
    done = segbundle("train", *SHORT, *data, "--output_dir", tmp_path / "training")
    assert done.returncode == 0, done.stderr
    assert "training on 4 cases, validating on 2" in done.stdout


def test_cross_validation_with_an_input_of_auto3dseg(source, tmp_path):
    dataset = auto3dseg(source, tmp_path / "data")
    done = segbundle("cross-validate", *SHORT, "--dataset_dir", dataset, "--output_dir", tmp_path / "cv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cv" / "metrics.csv").exists()
    assert "from the `fold` keys of folds.json" in done.stdout + done.stderr


def test_ambiguous_label_maps_stop_every_command(source, tmp_path):
    dataset = bids(source, tmp_path / "data")
    image = dataset / "sub-03" / "ses-1" / "anat" / "sub-03_ses-1_T1w.nii.gz"
    shutil.copy(image, image.with_name("sub-03_ses-1_FLAIR.nii.gz"))
    for command in (("check", dataset, "--config", TINY), ("train", *SHORT, "--dataset_dir", dataset)):
        done = segbundle(*command, *(("--output_dir", tmp_path / "out") if command[0] == "train" else ()))
        assert done.returncode == 1
        assert "sub-03_ses-1_dseg.nii.gz: fits 2 images" in done.stderr
        assert '"bids": {"images": ["FLAIR"]}' in done.stderr
    chosen = write(tmp_path / "t1.json", dataroot="data", bids={"images": ["T1w"]})
    done = segbundle("check", chosen, "--config", TINY)
    assert done.returncode == 0, done.stderr
