import sys

from segbundle.workflow.starting import start_workflow


def test_a_library_user_keeps_the_excepthook():
    before = sys.excepthook
    start_workflow()
    assert sys.excepthook is before
