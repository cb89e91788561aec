from segbundle.config.current_workflow import locate_bundle


def test_outside_a_workflow_the_bundle_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_bundle() == str(tmp_path)
