"""A conformance suite for any iSER target: ``iser conformance URL``.

:mod:`initiator.conformance.cases` holds the table of cases, small functions that drive a
:class:`~initiator.conformance.probe.Probe` and raise what they found; :mod:`initiator.conformance.runner` runs them.
"""

from __future__ import annotations

from initiator.conformance.case import Case, Outcome
from initiator.conformance.cases import CASES, chosen
from initiator.conformance.command import Request, carry_out
from initiator.conformance.output import as_json, as_junit
from initiator.conformance.runner import run_cases
from initiator.conformance.site import Site
from initiator.conformance.survey import survey
from initiator.conformance.verdict import Failure, Skipped, Unusual, Verdict

__all__ = [
    "CASES",
    "Case",
    "Failure",
    "Outcome",
    "Request",
    "Site",
    "Skipped",
    "Unusual",
    "Verdict",
    "as_json",
    "as_junit",
    "carry_out",
    "chosen",
    "run_cases",
    "survey",
]
