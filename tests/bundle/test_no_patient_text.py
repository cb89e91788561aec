"""Text of DICOM headers: what commands write into files and messages."""

import csv
import gzip
import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import generate_uid

from commands import TINY, segbundle
from dicoms import write_series
from segbundle.files.output_folders import claim
from segbundle.files.pseudonyms import PSEUDONYM
from segbundle.results.journal import Journal
from tiny import tiny_label, write_nifti

pytestmark = pytest.mark.e2e

PATIENT = {
    "PatientName": "Phäntomias^Synthetica", "PatientID": "PID-471108", "PatientBirthDate": "19430217",
    "AccessionNumber": "ACC-908172", "InstitutionName": "Klinik Zwölfeichen", "ReferringPhysicianName": "Überweiser^A",
    "PatientComments": "Kommentarwort", "StudyDescription": "Studienwort", "StationName": "Stationswort",
    "OperatorsName": "Bedienerwort^B", "PatientAddress": "Adresswort 7", "ProtocolName": "Protokollwort",
    "StudyID": "STUDY-55120", "DeviceSerialNumber": "SERIAL-66120", "OtherPatientIDs": "OTHER-77120",
}  # fmt: skip
PRIVATE = "Privatwort-3391"
DESCRIPTION, DATE = "Knieserie-Einmalig", "20250914"
STUDY = "1.2.826.0.1.3680043.8.498.314159265358979"
WORDS = [word for text in PATIENT.values() for word in text.split("^") if len(word) > 1]
IDENTIFYING = [*WORDS, PRIVATE, STUDY, DATE, DESCRIPTION]


def write_scan(folder, array, **tags):
    """Write a series whose header is full of text, and return its SeriesInstanceUID."""

    def edit(dataset, index):
        block = dataset.private_block(0x0029, "SEGBUNDLE TEST", create=True)
        block.add_new(0x10, "LO", PRIVATE)

    uid = generate_uid()
    texts = {**PATIENT, "SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": DESCRIPTION, "SeriesDate": DATE}
    series = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": uid, **texts, **tags}
    write_series(folder, array, spacing=(1, 1, 1), edit=edit, **series)
    return uid


def damage(folder, volume):
    """Write series that cannot be read: with a missing slice, truncated voxels, and a truncated header."""
    uids = [write_scan(folder / name, volume) for name in ("gap", "short", "header")]
    (folder / "gap" / "IM004.dcm").unlink()
    for name, size in (("short", -300), ("header", 700)):
        path = folder / name / "IM004.dcm"
        path.write_bytes(path.read_bytes()[:size])
    return uids


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a dataset of DICOM series, a training on it, and the UIDs of its series."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    uids = []
    for index in range(4):
        label = tiny_label(rng)
        image = (label * 50 + rng.normal(0, 5, label.shape)).astype(np.int16)
        uids.append(write_scan(folder / "data" / "imagesTr" / f"case{index}", image))
        affine = np.diag([-1.0, -1, 1, 1])
        affine[:3, 3] = 10, 20, 30
        write_nifti(folder / "data" / "labelsTr" / f"case{index}.nii.gz", label, affine)
    shutil.copytree(folder / "data" / "imagesTr", folder / "scans")
    uids += damage(folder / "scans", image)
    options = ["--max_epochs", "4", "--val_interval", "2", "--cache_dir", folder / "cache"]
    trained = command("train", "--dataset_dir", folder / "data", "--output_dir", folder / "trained", *options)
    (folder / "trained" / "streams.txt").write_bytes(trained)
    return folder, uids


def command(name, *words, code=0):
    """Run a command, and return its stdout and stderr."""
    done = segbundle(name, *words, *(["--config", TINY] if name in ("train", "evaluate", "predict") else []))
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout + done.stderr).encode()


def predict(made, out, *words, code=1):
    folder, _ = made
    return command(
        "predict", folder / "scans", "--ckpt_path", folder / "trained" / "model.pt", "--output_dir", out, *words,
        code=code,
    )  # fmt: skip


def contents(path):
    """Yield the bytes of a file, and the decompressed bytes in it."""
    content = path.read_bytes()
    yield content
    if path.name.endswith(".gz"):
        yield gzip.decompress(content)
    if path.name.endswith(".nrrd"):
        yield zlib.decompress(content.partition(b"\n\n")[2], wbits=31)
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from map(archive.read, archive.namelist())


def found(texts, content):
    """Return the texts that bytes contain in UTF-8, Latin-1 or UTF-16."""
    codecs = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
    escaped = {text: json.dumps(text)[1:-1].encode() for text in texts}
    return [text for text in texts if any(text.encode(c) in content for c in codecs) or escaped[text] in content]


def leaks(texts, *folders, without=()):
    """Return the files in folders that contain one of the texts, with these texts."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    kept = [path for path in files if path.suffix not in without]
    pairs = [(path.name, found(texts, content)) for path in kept for content in contents(path)]
    return [pair for pair in pairs if pair[1]]


def test_search_finds_text_in_every_encoding(made, tmp_path):
    folder, uids = made
    missing = set(IDENTIFYING) - set(found(IDENTIFYING, (folder / "scans" / "case0" / "IM000.dcm").read_bytes()))
    assert not missing and leaks(uids, folder / "scans")
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write("Zwölfeichen".encode("utf-16"))
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", "Zwölfeichen".encode("latin-1"))
    (tmp_path / "c.json").write_text(json.dumps("Zwölfeichen"))
    assert leaks(["Zwölfeichen"], tmp_path) == [(name, ["Zwölfeichen"]) for name in ("a.gz", "b.pt", "c.json")]


def test_training_writes_no_text_of_headers(made):
    folder, uids = made
    assert {path.name for path in (folder / "trained").iterdir()} >= {"model.pt", "last.pt", "run.json", "tensorboard"}
    assert list((folder / "cache").rglob("*.pt"))
    assert leaks([*IDENTIFYING, *uids], folder / "trained", folder / "cache") == []


def test_prediction_and_its_report_write_pseudonyms(made, tmp_path):
    _, uids = made
    out = tmp_path / "out"
    streams = predict(made, out, "--output_format", "[nifti, nrrd]", "--save_probabilities", "true")
    streams += command("report", out)
    assert leaks([*IDENTIFYING, *uids], out) == [] and found([*IDENTIFYING, *uids], streams) == []
    records = json.loads((out / "predictions.json").read_text())
    assert sum(record["status"] == "failed" for record in records) == 3
    series = {record["case"]: record["series"] for record in records if "series" in record}
    assert {"case0", "case1", "case2", "case3", "gap", "short"} <= set(series)
    assert {tuple(fields) for fields in series.values()} == {("modality", "pseudonym")}
    assert len({fields["pseudonym"] for fields in series.values()}) == len(series)
    rows = list(csv.DictReader((out / "measurements.csv").open(encoding="utf-8-sig")))
    assert {(row["case"], row["modality"], row["series"]) for row in rows} >= {
        (case, "CT", fields["pseudonym"]) for case, fields in series.items()
    }
    assert series["case0"]["pseudonym"] in (out / "report.html").read_text()


def test_pseudonyms_are_kept_by_resume_and_new_in_a_new_run(made, tmp_path):
    out = tmp_path / "out"
    first, resumed, new = [
        {record["case"]: record.get("series") for record in json.loads((out / "predictions.json").read_text())}
        for words in ([], ["--resume", "true"], [])
        if predict(made, out, *words)
    ]
    assert first == resumed
    pseudonyms = [{fields["pseudonym"] for fields in run.values() if fields} for run in (first, new)]
    assert len(pseudonyms[0] | pseudonyms[1]) == 2 * len(pseudonyms[0])


def test_identifiers_are_kept_only_with_the_setting(made, tmp_path):
    _, uids = made
    out = tmp_path / "out"
    streams = predict(made, out, "--keep_identifiers", "true") + command("report", out)
    assert found([*IDENTIFYING, *uids], streams) == []
    assert leaks([*WORDS, PRIVATE, STUDY], out) == []
    for name in ("predictions.json", "measurements.csv", "report.html"):
        assert set(found([DESCRIPTION, DATE, *uids[:4]], (out / name).read_bytes())) == {DESCRIPTION, DATE, *uids[:4]}
    predict(made, out, "--resume", "true")  # also removes the report and the measurements
    assert leaks([*IDENTIFYING, *uids], out) == []
    assert not (out / "report.html").exists()


def test_evaluation_writes_pseudonyms(made, tmp_path):
    folder, uids = made
    options = ["--ckpt_path", folder / "trained" / "model.pt", "--output_dir", tmp_path / "out"]
    streams = command("evaluate", "--dataset_dir", folder / "data", *options)
    assert leaks([*IDENTIFYING, *uids], tmp_path / "out") == [] and found([*IDENTIFYING, *uids], streams) == []
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert all(record["series"]["pseudonym"] in (tmp_path / "out" / "report.html").read_text() for record in records)


def test_check_prints_no_text_about_patients(made):
    folder, uids = made
    streams = command("check", folder / "scans", code=1)
    streams += command("check", folder / "data", "--config", TINY)
    assert found([*WORDS, PRIVATE, STUDY, *uids], streams) == []
    assert found([DESCRIPTION], streams)  # the table on the terminal shows what --series selects by


def test_text_about_patients_only_in_dicom_outputs(made, tmp_path):
    _, uids = made
    out = tmp_path / "out"
    streams = predict(made, out, "--output_format", "[nifti, dicom_seg, rtstruct]") + command("report", out)
    assert leaks([*IDENTIFYING, *uids], out, without=[".dcm"]) == []
    assert found([*IDENTIFYING, *uids], streams) == []
    segmentation = next(iter(contents(out / "case0_seg.dcm")))
    assert set(found(IDENTIFYING, segmentation)) >= {"PID-471108", "Synthetica", "19430217", STUDY}


@pytest.mark.parametrize("output_format", ["dicom_seg", "rtstruct"])
@pytest.mark.parametrize(
    "tags",
    [
        {"PatientBirthDate": "born Phäntomias"}, {"PatientID": "Phäntomias" * 9}, {"PatientSex": "Phäntomias male"},
        {"PatientName": "Phäntomias" * 9}, {"AccessionNumber": "Phäntomias" * 3}, {"StudyDate": "Phäntomias"},
        {"PatientAge": "Phäntomias"}, {"FrameOfReferenceUID": "Phäntomias"}, {"StudyTime": "Phäntomias"},
        {"InstanceCreationDate": "Phäntomias"}, {"SeriesNumber": "12"},
    ],
    ids=lambda tags: next(iter(tags)) if isinstance(tags, dict) else tags,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_messages_about_invalid_values_do_not_quote_them(made, tmp_path, output_format, tags):
    folder, _ = made
    write_scan(tmp_path / "scan" / "a", np.zeros((20, 18, 16), np.int16), **tags)
    done = segbundle(
        "predict", tmp_path / "scan", "--config", TINY, "--ckpt_path", folder / "trained" / "model.pt",
        "--output_dir", tmp_path / "out", "--output_format", output_format,
    )  # fmt: skip
    streams = (done.stdout + done.stderr).encode()
    assert leaks([*WORDS, "Phäntomias"], tmp_path / "out", without=[".dcm"]) == []
    assert found([*WORDS, "Phäntomias"], streams) == []


def test_series_of_one_folder_are_named_by_their_descriptions(made, tmp_path):
    folder, _ = made
    for name, description in (("thin", DESCRIPTION), ("thick", "Zweite")):
        write_scan(tmp_path / name, np.zeros((20, 18, 16), np.int16), SeriesDescription=description)
        for path in (tmp_path / name).iterdir():
            (tmp_path / "both").mkdir(exist_ok=True)
            path.rename(tmp_path / "both" / f"{name}{path.name}")
    command(
        "predict", tmp_path / "both", "--ckpt_path", folder / "trained" / "model.pt", "--output_dir", tmp_path / "out"
    )
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(record["prediction"]).name for record in records] == [
        f"both_{DESCRIPTION}_seg.nii.gz", "both_Zweite_seg.nii.gz",
    ]  # fmt: skip
    assert leaks([*WORDS, PRIVATE, STUDY, DATE], tmp_path / "out") == []


NAMES = ["Ahornsen", "Wiebkelinde", "PAT-30471"]
"""Stand-ins for names of patients in names of files and folders."""


@pytest.fixture(scope="module")
def named(made, tmp_path_factory):
    """Return a folder of scans and a dataset whose files are named after patients; some scans cannot be read."""
    folder = tmp_path_factory.mktemp("named") / "Ahornsen_export"
    shutil.copytree(made[0] / "data" / "imagesTr" / "case0", folder / "scans" / "Ahornsen^Wiebkelinde" / "ct")
    shutil.copytree(made[0] / "data" / "imagesTr" / "case1", folder / "scans" / "PAT-30471_Ahornsen")
    for path in list((folder / "scans" / "PAT-30471_Ahornsen").iterdir()):
        path.rename(path.with_name(f"Wiebkelinde {path.name}"))
    for name in ("gap", "short", "header"):
        shutil.copytree(made[0] / "scans" / name, folder / "scans" / f"{name} Ahornsen, Wiebkelinde")
    image = nib.load(made[0] / "data" / "labelsTr" / "case0.nii.gz")
    write_nifti(folder / "scans" / "PAT-30471.nii.gz", image.get_fdata().astype(np.float32), image.affine)
    (folder / "scans" / "Wiebkelinde.nii.gz").write_bytes(b"broken")
    (folder / "scans" / "Ahornsen.nii.gz").symlink_to("missing_Wiebkelinde.nii.gz")
    for index, name in enumerate(("Ahornsen_1", "Wiebkelinde_2", "PAT-30471")):
        source = made[0] / "data"
        shutil.copytree(source / "imagesTr" / f"case{index}", folder / "data" / "imagesTr" / name)
        (folder / "data" / "labelsTr").mkdir(exist_ok=True)
        shutil.copy(source / "labelsTr" / f"case{index}.nii.gz", folder / "data" / "labelsTr" / f"{name}.nii.gz")
    return folder


def with_model(made, command_name, scans, out, *words, code=0):
    given = [scans] if command_name == "predict" else ["--dataset_dir", scans]
    options = ["--ckpt_path", made[0] / "trained" / "model.pt", "--output_dir", out, "--case_names", "pseudonym"]
    return command(command_name, *given, *options, *words, code=code)


def names_in(out, streams):
    """Return the names of patients in all files of a folder, in the names of these files, and in streams."""
    paths = "\n".join(str(path.relative_to(out)) for path in out.rglob("*")).encode()
    return leaks(NAMES, out), found(NAMES, paths), found(NAMES, streams)


class TestNamesOfFiles:
    def test_prediction_writes_pseudonyms_only(self, made, named, tmp_path):
        out, scans = tmp_path / "out", named / "scans"
        streams = with_model(made, "predict", scans, out, "--output_format", "[nifti, nrrd]", code=1)
        streams += command("report", out, "--dataset_dir", scans)
        assert names_in(out, streams) == ([], [], [])
        records = json.loads((out / "predictions.json").read_text("utf-8"))
        assert len(records) == 8 and sum(record["status"] == "ok" for record in records) == 3
        assert all(PSEUDONYM.fullmatch(record["case"]) and "image" not in record for record in records)
        assert {path.name for path in out.glob("*.seg.nrrd")} == {
            f"{record['case']}.seg.nrrd" for record in records if record["status"] == "ok"
        }
        page = (out / "report.html").read_text("utf-8")
        assert page.count("<svg") > 3 and "measurements" not in page[:100]
        assert not (out / "case_names.csv").exists()

    def test_messages_name_cases_by_pseudonym(self, made, named, tmp_path):
        streams = with_model(made, "predict", named / "scans", tmp_path / "out", code=1).decode()
        records = json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))
        for record in records:
            assert record["case"] in streams
            assert record["status"] == "ok" or record["error"].startswith(record["case"]), record["error"]

    def test_resume_finds_finished_cases(self, made, named, tmp_path):
        out, scans = tmp_path / "out", named / "scans"
        with_model(made, "predict", scans, out, code=1)
        first = json.loads((out / "predictions.json").read_text("utf-8"))
        (out / "predictions.json").unlink()
        claim(out)
        journal = Journal(out / "predictions.jsonl")  # as left by a run that was killed after four scans
        for record in first[:4]:
            journal.append(record)
        journal.close()
        dates = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
        streams = with_model(made, "predict", scans, out, "--resume", "true", code=1)
        done = sum(record["status"] == "ok" for record in first[:4])
        assert f"resuming: {done} of 8 scans are done".encode() in streams
        assert names_in(out, streams) == ([], [], [])
        again = json.loads((out / "predictions.json").read_text("utf-8"))
        assert [record["case"] for record in again] == [record["case"] for record in first]
        kept = {path.name for path, date in dates.items() if path.stat().st_mtime_ns == date}
        assert kept == {f"{record['case']}_seg.nii.gz" for record in first[:4] if record["status"] == "ok"}

    def test_new_folder_has_new_pseudonyms(self, made, named, tmp_path):
        for name in ("a", "b"):
            with_model(made, "predict", named / "scans" / "PAT-30471.nii.gz", tmp_path / name)
        cases = [
            json.loads((tmp_path / name / "predictions.json").read_text("utf-8"))[0]["case"] for name in ("a", "b")
        ]
        assert cases[0] != cases[1]

    def test_paths_are_kept_only_with_the_setting(self, made, named, tmp_path):
        out, scans = tmp_path / "out", named / "scans"
        streams = with_model(made, "predict", scans, out, "--keep_identifiers", "true", code=1)
        assert {name for name, _ in leaks(NAMES, out)} == {"predictions.json", "case_names.csv"}
        assert found(NAMES, streams) == []
        rows = {
            row["case"]: row["image"] for row in csv.DictReader((out / "case_names.csv").open(encoding="utf-8-sig"))
        }
        assert str(scans / "PAT-30471.nii.gz") in rows.values() and len(rows) == 8
        command("report", out)
        with_model(made, "predict", scans, out, "--resume", "true", code=1)
        assert names_in(out, b"") == ([], [], []) and not (out / "case_names.csv").exists()

    def test_evaluation_writes_pseudonyms_only(self, made, named, tmp_path):
        out, data = tmp_path / "out", named / "data"
        streams = with_model(made, "evaluate", data, out)
        assert names_in(out, streams) == ([], [], [])
        assert "<svg" in (page := (out / "report.html").read_text("utf-8")) and page.count("data:image/jpeg") > 3
        (out / "report.html").unlink()
        streams = command("report", out, "--dataset_dir", data)
        assert (out / "report.html").read_text("utf-8").count("data:image/jpeg") == page.count("data:image/jpeg")
        assert names_in(out, streams) == ([], [], [])

    def test_errors_before_the_first_scan_name_no_file(self, made, named, tmp_path):
        (tmp_path / "data").mkdir()
        shutil.copytree(named / "data", tmp_path / "data" / "Ahornsen")
        (tmp_path / "data" / "Ahornsen" / "labelsTr" / "Wiebkelinde_2.nii.gz").unlink()
        content = {"training": [{"image": "imagesTr/Ahornsen_1", "label": "labelsTr/PAT-30471_missing.nii.gz"}]}
        (tmp_path / "data" / "Ahornsen" / "dataset.json").write_text(json.dumps(content))
        streams = with_model(made, "evaluate", tmp_path / "data" / "Ahornsen", tmp_path / "out", code=1)
        assert found(NAMES, streams) == [] and b"no such file" in streams

    def test_folder_with_names_of_files_is_refused(self, made, named, tmp_path):
        predict(made, tmp_path / "out")
        streams = with_model(made, "predict", named / "scans", tmp_path / "out", code=1)
        assert b"choose another --output_dir" in streams
