import sys

from segbundle.workflow.starting import start_workflow


def test_start_workflow_keeps_the_excepthook_of_libraries():
    before = sys.excepthook
    start_workflow()
    assert sys.excepthook is before
