import pytest

from segbundle.errors import OutputError
from segbundle.workflow.outputs import prepare_output, prepare_prediction_output, prepare_training_output


def test_output_folders_are_created_or_raise(tmp_path):
    prepare_output(str(tmp_path / "a" / "b"))
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".lock"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/x: cannot be written .* choose another --output_dir"):
        prepare_output(str(tmp_path / "file" / "x"))


def test_folder_with_a_run_raises_unless_resumed(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(OutputError, match=r"contains a training run\. Choose another"):
        prepare_output(str(tmp_path))
    with pytest.raises(OutputError, match=r"already contains a training run \(last\.pt\).*--resume true"):
        prepare_training_output(str(tmp_path))
    prepare_training_output(str(tmp_path), resume=True)
    (tmp_path / "last.pt").rename(tmp_path / "task.json")  # renamed by a user
    with pytest.raises(OutputError, match=r"contains a training run\. Choose another"):
        prepare_output(str(tmp_path))


def test_resuming_without_a_run_warns(tmp_path, caplog):
    prepare_training_output(str(tmp_path), resume=True)
    assert "contains no last.pt to resume from" in caplog.text


@pytest.mark.parametrize("prepare", [prepare_output, prepare_training_output, prepare_prediction_output])
@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "is a broken link to "), ("loop", "leads back to itself"), ("x" * 300, "too long")],
)
def test_invalid_paths_raise(tmp_path, prepare, name, message):
    (tmp_path / "nowhere").symlink_to(tmp_path / "other" / "folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message) as error:
        prepare(str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path))
    assert not (tmp_path / "other").exists()
