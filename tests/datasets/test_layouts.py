"""Datalists, BIDS datasets and studies of MONAI Label, as their programs write them."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from segbundle.datasets.cases import load_cases
from segbundle.datasets.datalist import dataset_folds, labeled_data
from segbundle.datasets.dataset_check import DatasetCheck
from segbundle.datasets.finding import find_scans
from segbundle.datasets.folds import refuse_repeated_cases
from segbundle.datasets.label_names import described_labels
from segbundle.errors import ConfigError, DataError
from tiny import TINY_CLASSES, write_description, write_empty_scans


def pairs(dataset, key="training"):
    return {
        case.name: ([path.name for path in case.image], case.label and case.label.name)
        for case in load_cases(dataset, key)
    }


def write_json(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def layout(dataset):
    return DatasetCheck(dataset, TINY_CLASSES).layout


class TestDatalists:
    @pytest.fixture
    def data(self, tmp_path):
        names = [f"{n}/{n}_CT_HR{kind}.nii.gz" for n in "1234" for kind in ("", "_label")]
        write_empty_scans(tmp_path / "data", *names)
        return tmp_path / "data"

    @pytest.fixture
    def content(self):
        """A datalist as VISTA3D's `make_datalists.py` writes it."""
        entries = [
            {
                "image": f"{n}/{n}_CT_HR.nii.gz",
                "pseudo_label": f"{n}/{n}_CT_HR.nii.gz",
                "label": f"{n}/{n}_CT_HR_label.nii.gz",
                "fold": fold,
                "pseudo_label_reliability": 1,
                "label_sv": "/workspace_infer/supervoxel_sam/seg.nii.gz",
            }
            for fold, n in enumerate("123")
        ]
        testing = [{"image": "4/4_CT_HR.nii.gz", "label": "4/4_CT_HR_label.nii.gz"}]
        return {
            "training": entries,
            "training_transform": [{"_target_": "RandZoomd", "keys": ["@image_key"]}],
            "label_dict": {"2": "airway"},
            "original_label_dict": {"1": "lung", "2": "airway"},
            "testing": testing,
        }

    def test_datalist_beside_its_data(self, data, content):
        path = write_json(data / "AeroPath_3_folds.json", **content)
        assert list(pairs(path)) == ["1_CT_HR", "2_CT_HR", "3_CT_HR"]
        assert pairs(path, "test") == {"4_CT_HR": (["4_CT_HR.nii.gz"], "4_CT_HR_label.nii.gz")}
        assert described_labels(path)[:2] == (["background", "lung", "airway"], None)
        assert len(dataset_folds(path, TINY_CLASSES, 5).folds) == 3
        held_out = labeled_data(path, ["background", "lung", "airway"], "validation", fold=1)
        assert [entry["case"] for entry in held_out] == ["2_CT_HR"]
        assert layout(path) == "MONAI datalist (AeroPath_3_folds.json)"

    def test_dataroot_of_a_datalist(self, data, content):
        path = write_json(data.parent / "lists" / "folds.json", dataroot="../data", **content)
        assert all(case.label.is_file() for case in load_cases(path))
        write_json(path, dataroot=str(data), **content)
        assert all(case.label.is_file() for case in load_cases(path))

    @pytest.mark.parametrize("suffix", [".yaml", ".json"])
    def test_input_of_auto3dseg(self, data, content, suffix, monkeypatch):
        write_json(data.parent / "lists" / "folds.json", **content)
        given = {"modality": "CT", "datalist": "../lists/folds.json", "dataroot": str(data), "class_names": None}
        path = write_json(data.parent / "work" / f"input{suffix}", **given)  # JSON is YAML
        assert all(case.label.is_file() for case in load_cases(path))
        assert layout(path) == f"Auto3DSeg (input{suffix}, datalist folds.json)"
        monkeypatch.chdir(data.parent)
        write_json(path, modality="CT", datalist="lists/folds.json", dataroot="data")
        assert all(case.label.is_file() for case in load_cases(path))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"datalist": "gone.json"}, r"input\.json: datalist is gone\.json, but .*gone\.json does not exist"),
            ({"datalist": 3}, r"input\.json: datalist is 3; it must be a path"),
            ({"datalist": "folds.json", "dataroot": ["a"]}, r"input\.json: dataroot is \['a'\]; it must be a path"),
            ({"datalist": "folds.json", "dataroot": "gone"}, r"input\.json: dataroot is .*gone, but this is not a"),
        ],
    )
    def test_invalid_inputs_of_auto3dseg(self, data, content, given, message):
        write_json(data / "folds.json", **content)
        with pytest.raises(DataError, match=message):
            load_cases(write_json(data / "input.json", **given))

    def test_yaml_without_datalist(self, tmp_path):
        (tmp_path / "task.yaml").write_text("class_names: [background]")
        with pytest.raises(DataError, match=r"task\.yaml: has no key `datalist`"):
            load_cases(tmp_path / "task.yaml")

    def test_datalist_in_a_folder_is_named(self, data, content):
        path = write_json(data / "folds.json", **content)
        (data / "other.json").write_text("[1]")
        (data / "bad.json").write_text("{")
        with pytest.raises(DataError, match=rf"contains a datalist \(folds\.json\); .* as in {re.escape(str(path))}"):
            load_cases(data)

    def test_messages_name_the_datalist(self, data, content):
        content["training"][0]["fold"] = "0"
        path = write_json(data / "folds.json", **content)
        with pytest.raises(DataError, match=r"folds\.json: training\[0\]\.fold is '0'"):
            load_cases(path)
        del content["training"][0]["fold"]
        write_json(path, **content)
        with pytest.raises(DataError, match=r"folds\.json: 1 of 3 labeled cases have no `fold`"):
            labeled_data(path, ["background", "lung", "airway"], "validation", fold=1)
        write_json(path, **content, validation=content["testing"])
        for entry in content["training"]:
            entry.pop("fold", None)
        write_json(path, **content, validation=content["testing"])
        with pytest.raises(DataError, match=r"the `validation` list of folds\.json defines only fold 0"):
            refuse_repeated_cases(dataset_folds(path, TINY_CLASSES, 5))

    def test_channels_and_label_lists(self, tmp_path):
        write_empty_scans(tmp_path, *(f"{n}/{kind}.nii.gz" for n in "ab" for kind in ("flair", "t1", "seg")))
        entries = [{"image": [f"{n}/flair.nii.gz", f"{n}/t1.nii.gz"], "label": [f"{n}/seg.nii.gz"]} for n in "ab"]
        path = write_json(tmp_path / "brats.json", labels=["background", "ball", "cube"], training=entries)
        assert pairs(path) == {f"{n}_flair": (["flair.nii.gz", "t1.nii.gz"], "seg.nii.gz") for n in "ab"}
        assert described_labels(path).class_names == TINY_CLASSES

    def test_label_dict_with_a_gap_gives_no_names(self, tmp_path):
        path = write_json(tmp_path / "a.json", training=[], label_dict={"2": "airway"})
        assert described_labels(path).class_names is None


class TestBids:
    def write(self, root, *names):
        write_empty_scans(root, *names)
        write_json(root / "dataset_description.json", Name="ds", BIDSVersion="1.9.0")
        return root

    def choose(self, root, **choice):
        return write_json(root.parent / "choice.json", dataroot=str(root), bids=choice)

    def test_sessions_and_runs(self, tmp_path):
        raw = [f"sub-0{s}/ses-{t}/anat/sub-0{s}_ses-{t}_run-{r}_T1w.nii.gz" for s in "12" for t in "12" for r in "12"]
        drawn = [f"derivatives/manual/{name.replace('T1w', 'dseg')}" for name in raw[:-1]]
        bold = "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-1_bold.nii.gz"
        root = self.write(tmp_path / "ds", *raw, *drawn, bold)
        found = pairs(root)
        assert len(found) == 8
        for name, (images, label) in found.items():
            assert images == [f"{name}.nii.gz"]
            unlabeled = name == "sub-02_ses-2_run-2_T1w"
            assert label == (None if unlabeled else f"{name.replace('T1w', 'dseg')}.nii.gz")
        assert layout(root) == "BIDS (sub-*, derivatives)"
        assert load_cases(root)[0].label.relative_to(root).parts[:2] == ("derivatives", "manual")
        assert DatasetCheck(root, TINY_CLASSES).problems == []

    def test_label_of_the_session_of_its_image(self, tmp_path):
        raw = [f"sub-1/ses-{t}/anat/sub-1_ses-{t}_T1w.nii.gz" for t in ("pre", "post")]
        root = self.write(tmp_path / "ds", *raw, "derivatives/m/sub-1/ses-post/anat/sub-1_ses-post_label-L_mask.nii.gz")
        assert pairs(root) == {
            "sub-1_ses-pre_T1w": (["sub-1_ses-pre_T1w.nii.gz"], None),
            "sub-1_ses-post_T1w": (["sub-1_ses-post_T1w.nii.gz"], "sub-1_ses-post_label-L_mask.nii.gz"),
        }

    @pytest.mark.parametrize(
        "label",
        [
            "sub-1_ce-gad_dseg", "sub-1_ce-gad_space-orig_dseg", "sub-1_ce-gad_space-T1w_desc-manual_dseg",
            "sub-1_ce-gad_T1w_seg-manual", "sub-1_ce-gad_T1w_label-lesion_mask", "sub-1_ce-gad_seg-tumor_dseg",
        ],
    )  # fmt: skip
    def test_entities_of_label_maps(self, tmp_path, label):
        raw = ("sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_ce-gad_T1w.nii.gz", "sub-1/dwi/sub-1_ce-gad_dwi.nii.gz")
        root = self.write(tmp_path / "ds", *raw, f"derivatives/m/sub-1/anat/{label}.nii.gz")
        assert pairs(root)["sub-1_ce-gad_T1w"] == (["sub-1_ce-gad_T1w.nii.gz"], f"{label}.nii.gz")

    def test_images_in_another_space(self, tmp_path):
        """As in the ATLAS dataset, images and label maps are in the same derivative."""
        folder, space = "derivatives/ATLAS/sub-r1s1/ses-1/anat/sub-r1s1_ses-1", "space-MNI152NLin2009aSym"
        root = self.write(
            tmp_path / "ds", "sub-r1s1/ses-1/anat/sub-r1s1_ses-1_T1w.nii.gz", f"{folder}_{space}_T1w.nii.gz",
            f"{folder}_{space}_label-L_desc-T1lesion_mask.nii.gz",
        )  # fmt: skip
        assert pairs(root)[f"sub-r1s1_ses-1_{space}_T1w"][1] is not None
        assert pairs(root)["sub-r1s1_ses-1_T1w"][1] is None

    def test_label_map_of_several_images_is_refused_by_name(self, tmp_path):
        names = [
            "sub-1/anat/sub-1_T1w.nii.gz",
            "sub-1/anat/sub-1_FLAIR.nii.gz",
            "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz",
        ]
        root = self.write(tmp_path / "ds", *names)
        with pytest.raises(DataError) as caught:
            load_cases(root)
        message = str(caught.value)
        assert "sub-1_dseg.nii.gz: fits 2 images (sub-1_" in message
        assert f'{{"dataroot": "{root}", "bids": {{"images": ["FLAIR"]}}}}' in message
        assert DatasetCheck(root, TINY_CLASSES).problems == [message]
        assert pairs(self.choose(root, images="T1w")) == {"sub-1_T1w": (["sub-1_T1w.nii.gz"], "sub-1_dseg.nii.gz")}
        both = self.choose(root, images=["FLAIR", "T1w"])
        assert pairs(both) == {"sub-1": (["sub-1_FLAIR.nii.gz", "sub-1_T1w.nii.gz"], "sub-1_dseg.nii.gz")}
        missing = self.choose(root, images=["T1w", "T2w"])
        with pytest.raises(DataError, match=r"sub-1_dseg\.nii\.gz: has no image T2w whose entities it has \(sub-1\)"):
            labeled_data(missing, TINY_CLASSES)

    def test_several_label_maps_of_an_image_are_refused_by_name(self, tmp_path):
        anat = "sub-1/anat/sub-1"
        names = [
            f"derivatives/{p}/{anat}_{s}.nii.gz" for p, s in (("m", "dseg"), ("m", "desc-brain_mask"), ("n", "dseg"))
        ]
        root = self.write(tmp_path / "ds", f"{anat}_T1w.nii.gz", *names)
        with pytest.raises(DataError) as caught:
            load_cases(root)
        assert "sub-1_T1w.nii.gz: has 3 label maps (derivatives/m/" in str(caught.value)
        assert all(name in str(caught.value) for name in names)
        assert pairs(self.choose(root, derivatives="n"))["sub-1_T1w"][1] == "sub-1_dseg.nii.gz"
        assert pairs(self.choose(root, label="desc-brain_mask"))["sub-1_T1w"][1] == "sub-1_desc-brain_mask.nii.gz"
        with pytest.raises(DataError, match=r"has 2 label maps .*\"bids\": {\"derivatives\": \"m\"}"):
            load_cases(self.choose(root, label="dseg"))
        with pytest.raises(DataError, match=r"has 2 label maps .*\"bids\": {\"label\": \""):
            load_cases(self.choose(root, derivatives="m"))
        assert len(pairs(self.choose(root, derivatives="m", label="dseg"))) == 1

    @pytest.mark.parametrize("choice", [{"label": 3}, {"labels": "dseg"}, {"images": [1]}])
    def test_wrong_choices(self, tmp_path, choice):
        root = self.write(tmp_path / "ds", "sub-1/anat/sub-1_T1w.nii.gz")
        with pytest.raises(DataError, match=r"choice\.json: bids\."):
            load_cases(self.choose(root, **choice))

    def test_label_map_without_image_and_broken_links(self, tmp_path):
        """Files of DataLad that were not downloaded are broken links."""
        root = self.write(
            tmp_path / "ds", "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz",
            "derivatives/m/sub-2/anat/sub-2_dseg.nii.gz", "derivatives/m/sub-3/anat/sub-3_dseg.nii.gz",
        )  # fmt: skip
        (root / "sub-3" / "anat").mkdir(parents=True)
        (root / "sub-3" / "anat" / "sub-3_T1w.nii.gz").symlink_to("../../.git/annex/objects/x.nii.gz")
        problems = [message for _, found in DatasetCheck(root, TINY_CLASSES) for message in found]
        assert len(problems) == 2
        assert "sub-2_dseg.nii.gz: has no image whose entities it has (sub-2)" in problems[0]
        assert "sub-3_T1w.nii.gz: is a broken link to ../../.git/annex" in problems[1]

    def test_files_of_other_kinds_are_not_used(self, tmp_path):
        names = (
            "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz", "sourcedata/sub-1_T1w.nii.gz",
            "derivatives/m/sub-1/anat/sub-1_label-GM_probseg.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.dlabel.nii",
            "derivatives/m/template.nii.gz", "derivatives/m/sub-1/anat/sub-1_space-MNI_dseg.nii.gz",
        )  # fmt: skip
        root = self.write(tmp_path / "ds", *names)
        assert pairs(self.choose(root, label="dseg"))["sub-1_T1w"] == (["sub-1_T1w.nii.gz"], "sub-1_dseg.nii.gz")

    def test_sessions_of_a_subject_are_held_out_together(self, tmp_path):
        raw = [f"sub-{s}/ses-{t}/anat/sub-{s}_ses-{t}_T1w.nii.gz" for s in range(5) for t in range(3)]
        root = self.write(tmp_path / "ds", *raw, *(f"derivatives/m/{name.replace('T1w', 'dseg')}" for name in raw))
        seen = set()
        for fold in range(5):
            held_out, trained_on = (
                {entry["case"] for entry in labeled_data(root, TINY_CLASSES, section, fold)}
                for section in ("validation", "training")
            )
            assert len(held_out) == 3 and len({name.partition("_")[0] for name in held_out}) == 1
            assert len(trained_on) == 12
            seen |= held_out
        assert len(seen) == 15
        with pytest.raises(ConfigError, match="between 2 and the number of groups of cases, 5"):
            labeled_data(root, TINY_CLASSES, "training", 0, num_folds=6)

    def test_names_come_from_dataset_json(self, tmp_path):
        root = self.write(tmp_path / "ds", "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz")
        write_description(root, labels={"background": 0, "ball": 1, "cube": 2})
        (entry,) = labeled_data(root, TINY_CLASSES)
        assert entry["case"] == "sub-1_T1w"
        assert load_cases(root, "training") and not list(DatasetCheck(root, TINY_CLASSES).problems)


class TestMonaiLabelStudies:
    def test_final_labels_are_used(self, tmp_path, caplog):
        write_empty_scans(
            tmp_path, "a.nii.gz", "b.nii", "c.nii.gz", "labels/final/a.nii.gz", "labels/original/a.nii.gz",
            "labels/final/b.nii.gz", "labels/original/c.nii.gz", "other/d.nii.gz",
        )  # fmt: skip
        assert pairs(tmp_path) == {
            "a": (["a.nii.gz"], "a.nii.gz"),
            "b": (["b.nii"], "b.nii.gz"),
            "c": (["c.nii.gz"], None),
        }
        assert all(case.label is None or case.label.parent.name == "final" for case in load_cases(tmp_path))
        assert "labels/original: 1 label maps (c) are not used because they were not submitted" in caplog.text
        assert layout(tmp_path) == "MONAI Label study (labels/final)"
        with pytest.raises(ConfigError, match="no list 'tests': did you mean 'test'"):
            load_cases(tmp_path, "tests")

    def test_folders_of_the_datastore(self, tmp_path):
        write_empty_scans(tmp_path, "images/a.nii.gz", "drawn/final/a.nii.gz")
        write_json(
            tmp_path / "datastore_v2.json",
            name="x",
            description="",
            images_dir="images",
            labels_dir="drawn",
            objects={},
        )
        (case,) = load_cases(tmp_path)
        assert (case.image[0].parent.name, case.label.parent.parent.name) == ("images", "drawn")
        write_json(tmp_path / "datastore_v2.json", images_dir=3)
        with pytest.raises(DataError, match=r"datastore_v2\.json: images_dir is 3"):
            load_cases(tmp_path)

    def test_study_in_the_images_of_another_layout(self, tmp_path):
        """MONAI Label is often started with `--studies Task09_Spleen/imagesTr`."""
        write_empty_scans(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/labels/final/a.nii.gz")
        assert pairs(tmp_path) == {"a": (["a.nii.gz"], "a.nii.gz")}
        assert load_cases(tmp_path)[0].label.parent.name == "labelsTr"
        assert load_cases(tmp_path / "imagesTr")[0].label.parent.name == "final"
        assert layout(tmp_path) == "folders imagesTr and labelsTr"

    def test_label_without_image_and_broken_link(self, tmp_path):
        write_empty_scans(tmp_path, "labels/final/a.nii.gz", "labels/final/b.nii.gz")
        (tmp_path / "b.nii.gz").symlink_to("nowhere")
        with pytest.raises(DataError, match=r"labels/final/a\.nii\.gz: has no image a in .*\. Restore the image"):
            load_cases(tmp_path)
        check = DatasetCheck(tmp_path, TINY_CLASSES)
        assert len(check.problems) == 1
        assert next(found for _, (found,) in check).endswith("Restore the file, or remove the link.")


def test_label_maps_of_a_dataset_are_no_scans(tmp_path, caplog):
    caplog.set_level("INFO")
    write_empty_scans(tmp_path / "study", "a.nii.gz", "b.nii.gz", "labels/final/a.nii.gz", "labels/original/b.nii.gz")
    assert [scan["case"] for scan in find_scans(tmp_path / "study")] == ["a", "b"]
    assert "2 files skipped: 2 label maps of the dataset" in caplog.text
    write_empty_scans(tmp_path / "bids", "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz")
    assert [scan["case"] for scan in find_scans(tmp_path / "bids")] == ["sub-1_T1w"]


def test_testing_list_of_a_datalist_is_predicted(tmp_path):
    write_empty_scans(tmp_path / "data", "p1/ct.nii.gz", "p2/ct.nii.gz")
    testing = [{"image": f"p{n}/ct.nii.gz"} for n in (1, 2)]
    path = write_json(tmp_path / "folds.json", dataroot="data", training=[], testing=testing)
    assert [scan["case"] for scan in find_scans(path)] == ["p1_ct", "p2_ct"]
    write_json(path, training=testing)
    with pytest.raises(DataError, match=r"folds\.json: has no `testing` list\. Add one, or pass the scans"):
        find_scans(path)


@pytest.mark.parametrize("kind", ["analyze", "mgz", "mgh"])
def test_analyze_pairs_and_mgz_in_folders(tmp_path, kind, caplog):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for section, voxels in (("imagesTr", array), ("labelsTr", (array > 30).astype(np.uint8))):
        (tmp_path / section).mkdir()
        if kind == "analyze":
            nib.save(nib.AnalyzeImage(voxels, np.diag([-1, 1, 1, 1])), tmp_path / section / "a.hdr")
        else:
            nib.save(nib.MGHImage(voxels, np.eye(4)), tmp_path / section / f"a.{kind}")
    check = DatasetCheck(tmp_path, ["background", "high"])
    assert [(case.name, problems) for case, problems in check] == [("a", [])]
    assert check.tallies["high"].labeled == 1
    if kind == "analyze":
        assert "Analyze files do not define left and right" in caplog.text
        (tmp_path / "labelsTr" / "a.img").unlink()
        ((_, (problem,)),) = DatasetCheck(tmp_path, ["background", "high"])
        assert "labelsTr/a.hdr: cannot be read" in problem and "a.img" in problem


def test_titles_of_layouts(tmp_path, tiny_dataset):
    assert layout(tiny_dataset) == "Decathlon (dataset.json)"
    (tiny_dataset / "dataset.json").unlink()
    write_empty_scans(tiny_dataset, "derivatives/m/sub-1/sub-1_dseg.nii", "labels/final/a.nii")
    assert layout(tiny_dataset) == "folders imagesTr and labelsTr"
    write_description(tiny_dataset, channel_names={"0": "CT"}, file_ending=".nii.gz")
    assert layout(tiny_dataset) == "nnU-Net raw (dataset.json, imagesTr, labelsTr)"
    write_empty_scans(tmp_path, "i.nii", "l.nii")
    write_description(tmp_path, dataset={"x": {"images": ["i.nii"], "label": "l.nii"}})
    assert layout(tmp_path) == "nnU-Net raw (`dataset` mapping of dataset.json)"
