"""The picture of a run: one self-contained page, `report.html`."""

from simulations.report.content import Gallery, ReportContent
from simulations.report.page import write_report

__all__ = ["Gallery", "ReportContent", "write_report"]
