"""Checks that must hold whatever was studied; a failed one says that numbers of the study cannot be trusted."""

from __future__ import annotations

import pandas as pd

from stitching.analysis.statistics import last_epoch
from stitching.runs.step_log import ACCURACY

__all__ = ["failed_checks", "missing_note", "runs_without_accuracy"]

_NAMED = 5


def runs_without_accuracy(results: pd.DataFrame) -> list[str]:
    """The names of finished runs whose test gave no accuracy (NaN), so that they are in no mean."""
    done = results[results["state"] == "done"].drop_duplicates(["run", "name"], keep="last")
    tested = last_epoch(results[results["state"] == "done"])
    if ACCURACY in tested:
        done = done[~done["run"].isin(tested["run"][tested[ACCURACY].notna()])]
    return list(done["name"])


def missing_note(results: pd.DataFrame) -> str:
    """One sentence on `runs_without_accuracy`; blank where there are none."""
    names = runs_without_accuracy(results)
    if not names:
        return ""
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    runs = "1 finished run has" if len(names) == 1 else f"{len(names)} finished runs have"
    return f"{runs} no test accuracy (NaN), and {'is' if len(names) == 1 else 'are'} in no mean: {some}"


def failed_checks(results: pd.DataFrame) -> list[str]:
    """One sentence for each self-stitch with the identity that does not give the accuracy of its network, exactly.

    Cutting a network and joining it again changes nothing, so the least difference is a bug or a mix-up of weights.
    A base network counts if it is of the same sweep (`arch`), where both say theirs. Without one nothing is checked.

    Args:
        results: as `load_results` gives them; rows with `control` "self", and those with `base`.
    """
    if "control" not in results or ACCURACY not in results:
        return []
    done = last_epoch(results[results["state"] == "done"]).dropna(subset=ACCURACY)
    bases = done[done["base"].notna()]
    failed = []
    for own in done[done["control"] == "self"].to_dict("records"):
        base = bases[bases["base"] == own["source"]]
        if "arch" in done and not pd.isna(own["arch"]):
            base = base[base["arch"].isna() | (base["arch"] == own["arch"])]
        expected = sorted(set(base[ACCURACY]))
        if expected and own[ACCURACY] not in expected:
            failed.append(
                f"{own['name']}: {own['source']} stitched to itself with the identity has test accuracy "
                f"{own[ACCURACY]:.6g}, but alone it has {' or '.join(f'{one:.6g}' for one in expected)}."
            )
    return failed
