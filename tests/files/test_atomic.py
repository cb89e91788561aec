import codecs
import csv
import json
import os
import subprocess
import sys

import pandas
import pytest
from filelock import FileLock

from segbundle.errors import OutputError
from segbundle.files import atomic as files
from segbundle.files.atomic import (
    atomic_write,
    lock_folder,
    make_folder,
    read_csv,
    remove_partial,
    write_csv,
    write_json,
)
from segbundle.files.output_folders import claim


def test_failed_write_keeps_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_own_stale_partial_file_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mine")
    for name in ("a.txt", "b.txt"):
        (tmp_path / f".partial-{os.getpid()}-{name}").symlink_to(other)
    with atomic_write(tmp_path / "a.txt") as partial:
        assert partial.is_file() and not partial.is_symlink() and partial.read_text() == ""
        partial.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new" and not (tmp_path / "a.txt").is_symlink()
    assert other.read_text() == "mine"


def test_written_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0)
    try:
        write_json(tmp_path / "open.json", 1)
        os.umask(0o027)
        write_json(tmp_path / "closed.json", 1)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("open.json", "closed.json")] == [0o666, 0o640]


def test_json_round_trip_creates_folders(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {"name": "Größe"})
    text = (tmp_path / "a" / "b" / "c.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "Größe"\n}\n'
    assert json.loads(text) == {"name": "Größe"}


def test_content_is_synced_before_rename(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append((tmp_path / "a").exists()), fsync(number)))
    with atomic_write(tmp_path / "a") as partial:
        assert partial.name.startswith(f".partial-{os.getpid()}-")
        partial.write_text("new")
    assert synced == [False]


def test_only_partial_files_are_removed(tmp_path):
    names = (".partial-12-a.csv", ".partial-12-metrics.csv", ".partial-7-a_seg.nii.gz", "partial-12-metrics.csv")
    for name in names:
        (tmp_path / name).touch()
    folder = claim(tmp_path)
    folder.record_partial(12)
    folder.record_partial(7)
    remove_partial(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if path != folder.record_path)
    assert left == [".partial-12-a.csv", "partial-12-metrics.csv"]


def test_nan_in_json_raises(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not (tmp_path / "x.json").exists()


def test_unwritable_path_raises(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file.x\.json: cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})


LOCKING = """
import sys
from segbundle.files.atomic import lock_folder
lock_folder(sys.argv[1])
print("in", flush=True)
input()
"""


@pytest.mark.e2e
def test_folder_is_locked_until_process_ends(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", LOCKING, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    try:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match="another run is writing to it"):
            lock_folder(tmp_path)
    finally:
        first.kill()
        first.communicate()
    lock_folder(tmp_path)
    lock_folder(tmp_path)  # a notebook may lock the folder again
    second = subprocess.run([sys.executable, "-c", LOCKING, str(tmp_path)], input="", capture_output=True, text=True)
    assert "another run is writing to it" in second.stderr


def test_tables_are_readable_by_excel_and_pandas(tmp_path):
    names = ["plain", 'with "quotes", a comma', "größe 図"]
    write_csv(tmp_path / "a.csv", ["case", "dice"], [(name, "0.5") for name in names])
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(codecs.BOM_UTF8)  # without it, Excel shows grÃ¶ÃŸe
    assert content.count(b"\r\n") == 4
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [row["case"] for row in csv.DictReader(file)] == names
    write_csv(tmp_path / "b.csv", ["case"], [("plain",)])
    assert (tmp_path / "b.csv").read_bytes() == b"case\r\nplain\r\n"


@pytest.mark.parametrize(("column", "written"), [("case", "'-1"), ("class", "'-1"), ("change", "-1")])
def test_numbers_are_escaped_in_columns_of_names_only(tmp_path, column, written):
    write_csv(tmp_path / "a.csv", [column], [("-1",)])
    assert (tmp_path / "a.csv").read_bytes() == f"{column}\r\n{written}\r\n".encode()


def test_rows_of_another_length_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="argument 2 is"):
        write_csv(tmp_path / "a.csv", ["case", "dice"], [("a",)])
    assert not (tmp_path / "a.csv").exists()


def test_formulas_are_escaped(tmp_path):
    names = [
        "=1+1",
        "+a",
        "-b",
        "@c",
        "\t=d",
        "\r=e",
        "'=f",
        "''-g",
        "'h",
        "-",
        "+1",
        "-2.5e3",
        "x=1",
        '=HYPERLINK("a,b")',
    ]
    write_csv(tmp_path / "a.csv", ["case", "change"], [(name, "-1.5e-3") for name in names])
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell != "-1.5e-3"]
    assert [row["case"] for row in read_csv(tmp_path / "a.csv", ["case", "change"])] == names
    table = pandas.read_csv(tmp_path / "a.csv")
    assert list(table["change"]) == [-0.0015] * len(names)
    read_as_documented = table.replace(r"^'(?='*[=+\-@\t\r])", "", regex=True)
    assert list(read_as_documented["case"]) == names


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"case,dice\na,1,2\n", "line 2 has 3 cells, but the header has 2"),
        (b"case\na\n", "has no column 'dice'"),
        (b"", "has no column 'case'"),
        (b"case,dice\n\xff,1\n", "cannot be read as a table"),
        (b'case,dice\n"' + b"x" * 200_000 + b'",1\n', "cannot be read as a table"),
    ],
)
def test_damaged_tables_raise(tmp_path, content, told):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=rf"a\.csv: {told}"):
        read_csv(path, ["case", "dice"])
    with pytest.raises(OutputError, match=r"b\.csv: cannot be read as a table"):
        read_csv(tmp_path / "b.csv", ["case"])


def test_other_file_named_like_lock_raises(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with pytest.raises(OutputError, match=r"\.lock: is not an empty lock file"):
        lock_folder(tmp_path)
    assert (tmp_path / ".lock").read_text() == "mine"


def test_non_utf8_names_are_escaped(tmp_path):
    write_json(tmp_path / "a.json", {"case": "a\udcff"})
    write_csv(tmp_path / "a.csv", ["case"], [("a\udcff",)])
    assert read_csv(tmp_path / "a.csv", ["case"]) == [{"case": r"a\udcff"}]


def test_names_of_maximum_length(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")
    write_json(path, 1)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.e2e
@pytest.mark.parametrize(("what", "is_left"), [("pass", False), ("(folder / 'result').touch()", True)])
def test_created_empty_folder_is_removed_at_exit(tmp_path, what, is_left):
    script = f"""
from pathlib import Path
from segbundle.files.atomic import lock_folder, make_folder
folder = Path({str(tmp_path / "new")!r})
make_folder(folder)
lock_folder(folder)
{what}
assert folder.is_dir()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "new").is_dir() == is_left


@pytest.mark.e2e
def test_existing_folder_is_kept(tmp_path):
    script = f"from segbundle.files.atomic import lock_folder, make_folder; make_folder({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert tmp_path.is_dir()


@pytest.fixture
def at_exit(monkeypatch):
    """Record the functions registered with atexit."""
    calls = []
    monkeypatch.setattr(files.atexit, "register", lambda call, *args: calls.append(lambda: call(*args)))
    monkeypatch.setattr(files, "_locks", [])
    return calls


@pytest.mark.parametrize(("left", "stays"), [([], False), ([".lock"], False), (["a"], True), ([".lock", "a"], True)])
def test_created_folder_with_only_a_lock_is_removed(tmp_path, at_exit, left, stays):
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    assert folder.is_dir()
    make_folder(folder)
    (remove,) = at_exit
    for name in left:
        (folder / name).touch()
    remove()
    assert folder.exists() == stays
    assert not stays or sorted(path.name for path in folder.iterdir()) == left


def test_folder_of_other_process_is_kept(tmp_path, at_exit):
    make_folder(tmp_path)
    assert at_exit == []


def test_concurrent_creation_of_folder(tmp_path, at_exit, monkeypatch):
    (tmp_path / "new").mkdir()
    known = iter([False])  # the other process creates the folder after the check
    is_dir = files.Path.is_dir
    monkeypatch.setattr(files.Path, "is_dir", lambda path: next(known, is_dir(path)))
    make_folder(tmp_path / "new")
    assert len(at_exit) == 1


def test_all_locks_are_released_at_exit(tmp_path, at_exit):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lock_folder(tmp_path / name)
        assert len(at_exit) == 1
    (release,) = at_exit
    for name in ("a", "b"):
        assert FileLock(tmp_path / name / ".lock", timeout=0, is_singleton=True).is_locked
    release()
    for name in ("a", "b"):
        assert not FileLock(tmp_path / name / ".lock", timeout=0, is_singleton=True).is_locked
