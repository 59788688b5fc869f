"""Is what is stored right, and is what keeps it right at work? `tickwick doctor` asks, tells, and mends what it can.

Each check is a function from an `Examination` to findings, listed in `CHECKS`; each cure one to what it did, listed in
`CURES`. A finding's detail is for people, its check, subject and state are for programs; how it looks is the caller's.
"""

from ingest.doctor.examination import Examination, Limits, examine
from ingest.doctor.findings import Cure, Finding, Report, State
from ingest.doctor.rounds import CHECKS, CURES, diagnose, mend

__all__ = [
    "CHECKS",
    "CURES",
    "Cure",
    "Examination",
    "Finding",
    "Limits",
    "Report",
    "State",
    "diagnose",
    "examine",
    "mend",
]
