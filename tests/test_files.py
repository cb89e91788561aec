import codecs
import csv
import json
import subprocess
import sys

import pytest

from segbundle.errors import OutputError
from segbundle.files import keep_others_out, write_csv, write_json, written_whole


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:
        partial.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_makes_folders(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"name": "Größe"})
    assert json.loads((tmp_path / "a" / "b.json").read_text(encoding="utf-8")) == {"name": "Größe"}


def test_json_refuses_what_json_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not (tmp_path / "x.json").exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file.x\.json: cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})


LOCKING = """
import sys
from segbundle.files import keep_others_out
keep_others_out(sys.argv[1])
print("in", flush=True)
input()
"""


def test_a_folder_is_kept_from_other_processes_until_this_one_ends(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", LOCKING, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    try:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match="another run is writing to it"):
            keep_others_out(tmp_path)
    finally:
        first.kill()
        first.communicate()
    keep_others_out(tmp_path)
    keep_others_out(tmp_path)  # a notebook may begin again
    second = subprocess.run([sys.executable, "-c", LOCKING, str(tmp_path)], input="", capture_output=True, text=True)
    assert "another run is writing to it" in second.stderr


def test_tables_open_in_excel_and_are_read_by_programs(tmp_path):
    names = ["plain", 'with "quotes", a comma', "größe 図"]
    write_csv(tmp_path / "a.csv", ["case", "dice"], [(name, "0.5") for name in names])
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(codecs.BOM_UTF8)  # or Excel shows grÃ¶ÃŸe
    assert content.count(b"\r\n") == 4
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [row["case"] for row in csv.DictReader(file)] == names
    write_csv(tmp_path / "b.csv", ["case"], [("plain",)])
    assert (tmp_path / "b.csv").read_bytes() == b"case\r\nplain\r\n"


@pytest.mark.parametrize(("what", "is_left"), [("pass", False), ("(folder / 'result').touch()", True)])
def test_a_folder_that_was_made_and_left_empty_is_gone_at_the_end(tmp_path, what, is_left):
    script = f"""
from pathlib import Path
from segbundle.files import keep_others_out, make_folder
folder = Path({str(tmp_path / "new")!r})
make_folder(folder)
keep_others_out(folder)
{what}
assert folder.is_dir()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "new").is_dir() == is_left


def test_a_folder_that_was_there_stays(tmp_path):
    script = f"from segbundle.files import keep_others_out, make_folder; make_folder({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert tmp_path.is_dir()
