"""What candidates declined, and why."""

from collections.abc import Sequence

import pandas as pd

from harness.records import Record, Verdict
from reports.explain import dtype_of, shape_summary
from reports.text import plain

__all__ = ["unsupported_table"]


def unsupported_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns a row per operation, candidate, dtype and reason, with the number of cases and the first of them."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        if record.verdict is Verdict.UNSUPPORTED:
            key = (plain(record.op), plain(record.candidate), plain(dtype_of(record)), plain(record.reason))
            groups.setdefault(key, []).append(record)
    rows = [
        (*key, len(group), plain(group[0].case_id), shape_summary(group[0], limit=400))
        for key, group in sorted(groups.items(), key=lambda item: (item[0][:3], -len(item[1])))
    ]
    names = ["op", "candidate", "dtype", "reason", "cases", "first_case_id", "first_case"]
    return pd.DataFrame(rows, columns=names)
