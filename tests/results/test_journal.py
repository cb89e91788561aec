"""Records of a batch, from `predictions.json` and from the journals of a run that was killed."""

import json

import pytest

from runs_by_hand import RIGHT, write_predictions
from segbundle.errors import OutputError
from segbundle.results.journal import Journal, read_records
from segbundle.results.runs import holds_scores, read_predictions


def record(case, status="ok", image="x.nii.gz"):
    return {"case": case, "status": status, "image": image, "prediction": f"{case}_seg.nii.gz", "error": None}


def test_killed_run_keeps_all_complete_records(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl")
    for case in "cba":
        journal.append(record(case))
    journal.close()
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"case": "d", "sta')
    assert [one["case"] for one in read_records(tmp_path)] == ["a", "b", "c"]


def test_newest_record_of_a_scan_is_used(tmp_path):
    (tmp_path / "predictions.json").write_text(json.dumps([record("a", "failed"), record("b")]))
    for rank, case in enumerate("ac"):
        journal = Journal(tmp_path / f"predictions.rank{rank}.jsonl")
        journal.append(record(case))
        journal.close()
    assert [(one["case"], one["status"]) for one in read_records(tmp_path)] == [("a", "ok"), ("b", "ok"), ("c", "ok")]


def test_scans_with_the_same_name_have_separate_records(tmp_path):
    records = [record("a", "failed", f"{folder}/a.nii.gz") for folder in "xy"]
    (tmp_path / "predictions.json").write_text(json.dumps(records))
    assert read_records(tmp_path) == records


def test_other_files_are_not_read_as_journals(tmp_path):
    for name in ("predictions_old.jsonl", "predictions.rank.jsonl", "predictions.jsonl.bak"):
        (tmp_path / name).write_text("no JSON")
    assert read_records(tmp_path) == []


@pytest.mark.parametrize("text", ['{"case": 1, "status": "ok"}\n', '{"case": "a"}\n', "x\n{}\n", "[]\n"])
def test_damaged_journal_error_names_the_file(tmp_path, text):
    (tmp_path / "predictions.jsonl").write_text(text)
    with pytest.raises(OutputError, match=r"predictions\.jsonl: cannot be read .* or move the file away"):
        read_records(tmp_path)


def test_killed_run_error_suggests_resume(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl")
    journal.append(record("a"))
    journal.close()
    with pytest.raises(OutputError, match=r"has no run\.json.*scans done: 1.*--resume"):
        holds_scores(tmp_path)


def test_journal_after_a_killed_resume_is_read(tmp_path):
    write_predictions(tmp_path, {"a": RIGHT})
    journal = Journal(tmp_path / "predictions.jsonl")
    journal.append({**record("b"), "image": str(tmp_path / "scans" / "a.nii.gz")})
    journal.close()
    assert sorted(read_predictions(tmp_path).files) == ["a", "b"]
