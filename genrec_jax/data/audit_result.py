"""The result of one check of the leakage audit (`audit`)."""

import dataclasses
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """One check's verdict.

    Attributes:
        check: its name, as in the table of `audit`.
        status: `fail` where results on this artefact mean nothing, `warn` where the reader of a
            result must know something, else `pass`.
        detail: what was measured, in words.
    """

    check: str
    status: Status
    detail: str
