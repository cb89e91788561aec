import pytest

from segbundle.report.caveats import caveats
from segbundle.results.runs import Run


@pytest.mark.parametrize(
    ("summary", "claims_best"),
    [({"epoch": 7}, True), ({"epoch": 7, "model": "the newest: mean Dice is 0 so far"}, False)],
)
def test_page_of_a_training_run_claims_the_best_epoch_only_if_true(summary, claims_best, tmp_path):
    (tmp_path / "task.json").write_text("{}")
    run = Run(tmp_path, [], {"classes": {}, **summary}, {"command": "segbundle train"}, {}, {}, trained_on=None)
    (sentence,) = caveats(run, ["a"], ["liver"])
    assert "after epoch 7" in sentence
    assert ("the best of all validated epochs" in sentence) == claims_best
