from .comparison import write_comparison
from .page import write_report
from .prediction_page import write_prediction_report

__all__ = ["write_comparison", "write_prediction_report", "write_report"]
