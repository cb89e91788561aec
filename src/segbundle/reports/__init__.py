"""Tables of scores for people and programs."""

from segbundle.reports.scores import CaseScores, print_summary, read_scores, summarize, write_scores

__all__ = ["CaseScores", "print_summary", "read_scores", "summarize", "write_scores"]
