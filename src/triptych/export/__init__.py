"""Export: a trained model in a form that other programs load, checked by loading it."""

from triptych.export.run import ExportSpec, Report, export_model

__all__ = ["ExportSpec", "Report", "export_model"]
