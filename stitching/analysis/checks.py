"""Checks of a study's numbers. If one fails, the numbers cannot be trusted."""

from __future__ import annotations

import pandas as pd

from stitching.analysis.statistics import last_epoch
from stitching.runs.self_stitch import failed_self_stitch
from stitching.runs.step_log import ACCURACY

__all__ = ["failed_checks", "missing_note", "runs_without_accuracy"]

_MOST_NAMES = 5  # in one sentence


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
    some = ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )
    runs = "1 finished run has" if len(names) == 1 else f"{len(names)} finished runs have"
    return f"{runs} no test accuracy (NaN), and {'is' if len(names) == 1 else 'are'} in no mean: {some}"


def failed_checks(results: pd.DataFrame) -> list[str]:
    """One sentence for each self-stitch with the identity that is not exactly its network (`failed_self_stitch`).

    Cutting a network and joining it again changes nothing, so any difference means a bug or mixed-up weights. A
    self-stitch is compared with base networks of its own sweep (`arch`), where both name one.

    Args:
        results: as `load_results` gives them; rows with `control` "self", and those with `base`.
    """
    if "control" not in results or ACCURACY not in results:
        return []
    done = last_epoch(results[results["state"] == "done"])
    bases = done[done["base"].notna()].dropna(subset=ACCURACY)
    failed = []
    for run in done[done["control"].notna()].to_dict("records"):
        base = bases[bases["base"] == run["source"]]
        if "arch" in done and not pd.isna(run["arch"]):
            base = base[base["arch"].isna() | (base["arch"] == run["arch"])]
        if words := failed_self_stitch(run["control"], run, set(base[ACCURACY])):
            failed.append(f"{run['name']} ({run['source']} stitched to itself with the identity): {words}.")
    return failed
