import json

import pytest

from segbundle.errors import OutputError
from segbundle.files import write_json, written_whole


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
