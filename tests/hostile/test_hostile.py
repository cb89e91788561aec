"""A few of the bad inputs of every kind; `make hostile` runs all of them."""

import pytest

from hostile.cases import Case
from hostile.generate import all_cases
from hostile.runner import Runner

CASES = all_cases()
KINDS = list(dict.fromkeys(case.kind for case in CASES))
PER_KIND = 1


def chosen(kind: str) -> list[Case]:
    """The same few cases of a kind every time, spread over it."""
    some = [case for case in CASES if case.kind == kind]
    return some[len(some) // 3 :: max(1, len(some) // PER_KIND)][:PER_KIND]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    made = Runner(tmp_path_factory.mktemp("hostile") / "cases")
    yield made
    assert made.close() == []


@pytest.mark.parametrize("kind", KINDS)
def test_bad_inputs_end_as_they_should(kind, runner):
    wrong = {result.id: result.problems for case in chosen(kind) if (result := runner.run(case)).problems}
    assert wrong == {}


def test_there_are_more_than_a_thousand_inputs():
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
    }
    told = " ".join(case.id for case in CASES)
    assert [command for command in commands if command not in told.replace("-", "_")] == []
