from segbundle.config.current_workflow import locate_bundle


def test_bundle_is_the_working_directory_outside_workflows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_bundle() == str(tmp_path)
