from pathlib import Path

from segbundle.results.case_files import CaseFiles


def test_every_channel_and_the_reference_must_exist(tmp_path):
    paths = [str(tmp_path / name) for name in ("t1.nii", "t2.nii", "label.nii")]
    files = CaseFiles(paths[:2], paths[2], str(tmp_path / "seg.nii"))
    for missing in range(3):
        for path in paths:
            Path(path).touch()
        (tmp_path / ("t1.nii", "t2.nii", "label.nii")[missing]).unlink()
        assert files.gone == paths[missing]
    Path(paths[2]).touch()
    assert files.gone is None
