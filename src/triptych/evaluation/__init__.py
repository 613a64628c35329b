"""Judging: greedy answers, exact match, and the blind baseline beside it."""

from triptych.evaluation.report import summarise, table, write_report
from triptych.evaluation.runner import Evaluation, Outcome, evaluate_records
from triptych.evaluation.spec import EvalSpec

__all__ = [
    "EvalSpec",
    "Evaluation",
    "Outcome",
    "evaluate_records",
    "summarise",
    "table",
    "write_report",
]
