"""Records of written files; other files are neither replaced nor removed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs_by_hand import RIGHT, labels, write_evaluation, write_predictions
from segbundle.errors import OutputError
from segbundle.files.atomic import atomic_write, remove_partial, write_json
from segbundle.files.output_folders import RECORD, claim, folder_of, refuse_to_replace
from tiny import write_nifti


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_own_files_are_replaced(tmp_path):
    claim(tmp_path)
    for number in range(3):
        write_json(tmp_path / "a.json", number)
    assert (tmp_path / "a.json").read_text() == "2\n"
    claim(tmp_path)  # as the next run does
    write_json(tmp_path / "a.json", 3)
    assert (tmp_path / "a.json").read_text() == "3\n"


@pytest.mark.parametrize("changed", [False, True])
def test_other_files_are_not_replaced(tmp_path, changed):
    claim(tmp_path)
    if changed:
        write_json(tmp_path / "a.json", 1)
    (tmp_path / "a.json").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(
        OutputError, match=r"a\.json was not written by segbundle, or has changed since, .* move existing"
    ):
        write_json(tmp_path / "a.json", 2)
    assert content(tmp_path) == before


def test_file_created_during_a_write_is_not_replaced(tmp_path):
    claim(tmp_path)
    with pytest.raises(OutputError, match="not written by segbundle"), atomic_write(tmp_path / "a") as partial:
        partial.write_text("ours")
        (tmp_path / "a").write_text("mine")
    assert (tmp_path / "a").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "a"]


def test_relative_paths_are_recognized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim("out")
    write_json("out/a.json", 1)
    (tmp_path / "out" / "b.json").write_text("mine")
    write_json("out/a.json", 2)
    with pytest.raises(OutputError, match=r"b\.json was not written"):
        write_json("out/b.json", 2)


def test_links_are_foreign_and_not_followed(tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").symlink_to(outside)
    (tmp_path / "out" / f".partial-{os.getpid()}-b.json").symlink_to(outside)
    claim(tmp_path / "out")
    with pytest.raises(OutputError, match=r"a\.json was not written"):
        write_json(tmp_path / "out" / "a.json", 1)
    write_json(tmp_path / "out" / "b.json", 1)
    assert outside.read_text() == "mine" and (tmp_path / "out" / "b.json").read_text() == "1\n"


def test_only_own_files_are_removed(tmp_path):
    folder = claim(tmp_path)
    write_json(tmp_path / "ours.json", 1)
    (tmp_path / "mine.json").write_text("1")
    folder.remove(["ours.json", "mine.json", "nothing.json"])
    assert sorted(content(tmp_path)) == [RECORD, "mine.json"]


def test_copied_folder_is_recognized(tmp_path):
    claim(tmp_path / "out")
    write_json(tmp_path / "out" / "a.json", 1)
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "out", copied, copy_function=shutil.copy)  # without dates
    claim(copied)
    write_json(copied / "a.json", 2)
    assert (copied / "a.json").read_text() == "2\n"


def test_record_with_incomplete_last_line_is_read(tmp_path):
    claim(tmp_path)
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, 1)
    with (tmp_path / RECORD).open("a") as record:
        record.write('["c.js')
    claim(tmp_path)
    for name in ("a.json", "c.json", "b.json"):
        write_json(tmp_path / name, 2)
    folder = claim(tmp_path)
    assert folder.foreign([tmp_path / name for name in ("a.json", "b.json", "c.json")]) == []
    write_json(tmp_path / "c.json", 3)
    assert (tmp_path / "c.json").read_text() == "3\n"


def test_record_of_another_program_raises(tmp_path):
    (tmp_path / RECORD).write_text("not ours\n")
    with pytest.raises(OutputError, match=r"segbundle-files\.jsonl: is not a record of written files"):
        claim(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_record_that_is_not_a_file_raises(tmp_path, make):
    make(tmp_path / RECORD)
    with pytest.raises(OutputError, match=r"jsonl: (is not a file|cannot be read \(.*\))\. Move it away"):
        claim(tmp_path)


def test_a_record_stays_short(tmp_path):
    claim(tmp_path)
    for number in range(150):
        write_json(tmp_path / "a.json", number)
    write_json(tmp_path / "b.json", 1)
    (tmp_path / "b.json").unlink()
    claim(tmp_path).shorten()
    lines = (tmp_path / RECORD).read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [f".partial-{os.getpid()}-", "a.json"]
    write_json(tmp_path / "a.json", 0)


def test_inputs_are_not_replaced(tmp_path):
    folder = claim(tmp_path)
    write_json(tmp_path / "a_seg.nii.gz", 1)
    with pytest.raises(OutputError, match=r"a_seg\.nii\.gz is an input of this run"):
        folder.refuse_inputs(["a_seg.nii.gz", "b_seg.nii.gz"], [tmp_path / "." / "a_seg.nii.gz"])
    folder.refuse_inputs(["b_seg.nii.gz"], [tmp_path / "a_seg.nii.gz"])


def test_error_names_the_first_files(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(OutputError, match=r"0\.json, 1\.json, 2\.json and 2 more were not written by segbundle"):
        claim(tmp_path).refuse_foreign(f"{number}.json" for number in range(6))


def test_only_recorded_partial_files_are_removed(tmp_path):
    ours = [".partial-12-a b_seg.nii.gz", ".partial-1-last.pt", ".partial-7-run.json", f".partial-3-{'a1' * 16}.pt"]
    mine = [".partial-notes.txt", ".partial-1-notes.txt", ".partial-x-last.pt", "partial-1-last.pt", ".partial-1-a.pt"]
    mine.append(".partial-99-last.pt")  # of a process without a record here
    for name in (*ours, *mine):
        (tmp_path / name).write_text("half")
    folder = claim(tmp_path)
    for process in (1, 3, 7, 12, 12):
        folder.record_partial(process)
    assert len((tmp_path / RECORD).read_text().splitlines()) == 4
    remove_partial(tmp_path)
    assert sorted(content(tmp_path)) == sorted([*mine, RECORD])


@pytest.mark.e2e
def test_partial_file_of_killed_process_is_removed(tmp_path):
    script = (
        "import os, sys\n"
        "from segbundle.files.atomic import atomic_write\n"
        "from segbundle.files.output_folders import claim\n"
        "claim(sys.argv[1])\n"
        "with atomic_write(f'{sys.argv[1]}/run.json') as partial:\n"
        "    partial.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert any(name.startswith(".partial-") for name in content(tmp_path))
    claim(tmp_path).shorten()
    remove_partial(tmp_path)
    assert list(content(tmp_path)) == [RECORD]


def forget(folder):
    """Remove the record of a folder, as in earlier versions, and return the folder."""
    (folder / RECORD).unlink(missing_ok=True)
    return folder


def test_files_of_earlier_versions_are_recognized(tmp_path):
    evaluation = forget(write_evaluation(tmp_path / "evaluation", {"a": (RIGHT, RIGHT)}))
    made_by = json.loads((evaluation / "run.json").read_text())
    (evaluation / "run.json").write_text(json.dumps({**made_by, "versions": {}}))
    names = ("run.json", "metrics.csv", "summary.json")
    assert folder_of(evaluation).foreign(names) == []
    predictions = forget(write_predictions(tmp_path / "predictions", {"a": labels(), "b": RIGHT}))
    assert folder_of(predictions).foreign(["predictions.json", "a_seg.nii.gz", "b_seg.nii.gz"]) == []


def test_files_with_other_contents_are_not_recognized(tmp_path):
    folder = forget(write_predictions(tmp_path, {"a": RIGHT}))
    late = (folder / "run.json").stat().st_mtime_ns + 10**9
    os.utime(folder / "a_seg.nii.gz", ns=(late, late))  # corrected by hand
    write_nifti(folder / "b_seg.nii.gz", RIGHT)
    for name, text in (("summary.json", "{}"), ("metrics.csv", "a,b\n"), ("report.html", "<html>"), ("model.pt", "")):
        (folder / name).write_text(text)
    files = ["a_seg.nii.gz", "b_seg.nii.gz", "summary.json", "metrics.csv", "report.html", "model.pt"]
    assert [path.name for path in folder_of(folder).foreign(files)] == files


def test_without_records_only_pages_are_recognized(tmp_path):
    (tmp_path / "metrics.csv").write_text("case,class,status,dice\n")
    (tmp_path / "page.html").write_text("<meta content=\"default-src 'none'; img-src data:\">")
    refuse_to_replace(tmp_path / "new.html")
    with pytest.raises(OutputError, match=r"metrics\.csv, page\.html were"):
        folder_of(tmp_path).refuse_foreign(["metrics.csv", "page.html"])


def test_folder_in_place_of_a_file_raises(tmp_path):
    (tmp_path / "tables.md").mkdir()
    with pytest.raises(OutputError, match=rf"{re.escape(str(tmp_path / 'tables.md'))}: is a folder"):
        refuse_to_replace(tmp_path / "tables.md")
