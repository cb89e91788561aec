"""A few invalid inputs of every kind; `make hostile` runs all inputs."""

import pytest

from hostile.cases import Case
from hostile.generate import all_cases
from hostile.runner import Runner

CASES = all_cases()
KINDS = list(dict.fromkeys(case.kind for case in CASES))
PER_KIND = 1


def chosen(kind: str) -> list[Case]:
    """Return evenly spaced cases of a kind, always the same."""
    matching = [case for case in CASES if case.kind == kind]
    return matching[len(matching) // 3 :: max(1, len(matching) // PER_KIND)][:PER_KIND]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    made = Runner(tmp_path_factory.mktemp("hostile") / "cases")
    yield made
    assert made.close() == []


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_inputs_have_the_expected_outcome(kind, runner):
    wrong = {result.id: result.problems for case in chosen(kind) if (result := runner.run(case)).problems}
    assert wrong == {}


def test_more_than_a_thousand_inputs_for_all_commands():
    assert len({case.id for case in CASES}) == len(CASES) > 1000
    commands = {
        "train",
        "evaluate",
        "predict",
        "cross_validate",
        "check",
        "report",
        "view",
        "samples",
        "reproduce",
        "audit",
        "convert",
        "import",
    }
    ids = " ".join(case.id for case in CASES)
    assert [command for command in commands if command not in ids.replace("-", "_")] == []
