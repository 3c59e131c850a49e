"""Attacks on the pipeline that really runs: does it leak more than it promises."""

from fedemb.audit.audit import AuditSettings, audit
from fedemb.audit.canaries import Canaries, CanaryRunner
from fedemb.audit.planted import trained
from fedemb.audit.releases import Pipeline, release
from fedemb.audit.report import AuditReport, Estimate, LowerBound, Premise

__all__ = [
    "AuditReport",
    "AuditSettings",
    "Canaries",
    "CanaryRunner",
    "Estimate",
    "LowerBound",
    "Pipeline",
    "Premise",
    "audit",
    "release",
    "trained",
]
