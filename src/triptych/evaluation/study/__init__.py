"""Studies: the same recipe with one thing changed, over several seeds, judged on the same data."""

from triptych.evaluation.study.report import write_study
from triptych.evaluation.study.runner import Failure, run_study
from triptych.evaluation.study.spec import ArmSpec, Run, StudySpec, load_study, plan_runs

__all__ = [
    "ArmSpec",
    "Failure",
    "Run",
    "StudySpec",
    "load_study",
    "plan_runs",
    "run_study",
    "write_study",
]
