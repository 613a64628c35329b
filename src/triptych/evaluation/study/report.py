"""What a study found: means and spreads over seeds, as JSON, as a table and as a picture."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from triptych.evaluation.study.picture import draw_study
from triptych.evaluation.study.runner import Failure, Result
from triptych.evaluation.study.spec import METRICS, StudySpec
from triptych.training.files import write_text


def summarise_study(
    study: StudySpec, results: Sequence[Result], failures: Sequence[Failure]
) -> dict[str, Any]:
    """All results with mean and spread by arm.

    The spread is the sample standard deviation over seeds (None with one seed); ``least`` and
    ``most`` are given beside it.
    """
    arms = {}
    for arm in study.arms:
        own = [result for result in results if result["arm"] == arm]
        if own:
            arms[arm] = _summarise_arm(own)
    return {
        "title": study.title,
        "seeds": list(study.seeds),
        "metrics": list(study.metrics),
        "spread": "sample standard deviation over seeds",
        "arms": arms,
        "runs": list(results),
        "failures": [asdict(failure) for failure in failures],
        "missing": len(study.seeds) * len(study.arms) - len(results),
    }


def write_study(
    study: StudySpec, results: Sequence[Result], failures: Sequence[Failure]
) -> dict[str, Any]:
    """Write ``study.json``, ``study.md`` and ``study.png`` into the study's folder.

    Returns:
        What ``study.json`` holds.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    summary = summarise_study(study, results, failures)
    write_text(study.folder / "study.json", json.dumps(summary, indent=1) + "\n")
    write_text(study.folder / "study.md", markdown(summary))
    if results:
        draw_study(summary, study.folder / "study.png")
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """The tables: scores by file, scores by category, cost; then what is missing."""
    arms: dict[str, Any] = summary["arms"]
    parts = [f"# {summary['title']}", _ABOUT.format(seeds=", ".join(map(str, summary["seeds"])))]
    if arms:
        files = list(dict.fromkeys(name for arm in arms.values() for name in arm["scores"]))
        for metric in summary["metrics"]:
            parts.append(f"## {METRICS[metric]}")
            parts += [_score_table(arms, files, metric), *_category_tables(arms, files, metric)]
        parts += ["## Cost", _cost_table(arms)]
    for one in summary["failures"]:
        parts.append(f"FAILED: {one['arm']}, seed {one['seed']}: {one['reason']}")
    if summary["missing"]:
        parts.append(f"{summary['missing']} run(s) are missing from these tables.")
    return "\n\n".join(parts) + "\n"


_ABOUT = (
    "Scores in %, mean ± sample standard deviation over seeds {seeds}. *blind*: the same "
    "models and questions with the images swapped among records (by category in brackets)."
)


def _summarise_arm(results: Sequence[Result]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name, first in results[0]["scores"].items():
        files = [result["scores"][name] for result in results]
        groups = {
            group: [one["by_category"][group] for one in files] for group in first["by_category"]
        }
        scores[name] = {
            **_spreads(files),
            "by_category": {group: _spreads(found) for group, found in groups.items()},
        }
    return {
        "seeds": [result["seed"] for result in results],
        "parameters": results[0]["parameters"],
        "trained": results[0]["trained"],
        "steps": results[0]["steps"],
        "seconds": spread([result["seconds"] for result in results]),
        "tokens_per_second": spread([result["tokens_per_second"] for result in results]),
        "scores": scores,
    }


def _spreads(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the scores, seeing and blind, of one file or category over seeds."""
    return {
        key: None if scores[0][key] is None else spread([one[key] for one in scores])
        for metric in METRICS
        for key in (metric, f"blind_{metric}")
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None of one value), least and most."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "least": min(values),
        "most": max(values),
        "values": list(values),
    }


def _score_table(arms: dict[str, Any], files: Sequence[str], metric: str) -> str:
    blind = any(arm["scores"][name][f"blind_{metric}"] for arm in arms.values() for name in files)
    head = ["arm", "runs"]
    for name in files:
        head += [name, f"{name} blind"] if blind else [name]
    rows = []
    for arm, found in arms.items():
        row = [arm, str(len(found["seeds"]))]
        for name in files:
            one = found["scores"][name]
            keys = (metric, f"blind_{metric}") if blind else (metric,)
            row += [_show(one[key], 100, 1) for key in keys]
        rows.append(row)
    return _table(head, rows)


def _category_tables(arms: dict[str, Any], files: Sequence[str], metric: str) -> Iterable[str]:
    for name in files:
        groups = sorted({g for arm in arms.values() for g in arm["scores"][name]["by_category"]})
        if groups:
            rows = [
                [
                    arm,
                    *(_category(one["scores"][name]["by_category"].get(g), metric) for g in groups),
                ]
                for arm, one in arms.items()
            ]
            yield _table([name, *groups], rows)


def _category(scores: dict[str, Any] | None, metric: str) -> str:
    """A score, and the blind one in brackets."""
    if scores is None:
        return "-"
    blind = scores[f"blind_{metric}"]
    seeing = _show(scores[metric], 100, 1)
    return seeing if blind is None else f"{seeing} ({100 * blind['mean']:.1f})"


def _cost_table(arms: dict[str, Any]) -> str:
    head = ["arm", "parameters", "trained", "steps", "seconds in steps", "tokens/s"]
    rows = [
        [
            arm,
            f"{one['parameters']:,}",
            f"{one['trained']:,}",
            f"{one['steps']:,}",
            _show(one["seconds"], 1, 0),
            _show(one["tokens_per_second"], 1, 0),
        ]
        for arm, one in arms.items()
    ]
    return _table(head, rows)


def _show(value: dict[str, Any] | None, factor: float, digits: int) -> str:
    if value is None:
        return "-"
    mean = f"{factor * value['mean']:,.{digits}f}"
    return mean if value["std"] is None else f"{mean} ± {factor * value['std']:,.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
