"""What is kept and shown of an evaluation."""

import json
import platform
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.table import Table

import triptych
from triptych.data.schema import Record
from triptych.evaluation.gain import gain_margin
from triptych.evaluation.metrics import normalise
from triptych.evaluation.refusals import count_refusals
from triptych.evaluation.runner import Evaluation, Outcome


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Scores in total, by category and by number of images, with what is needed to repeat them."""
    outcomes, records = evaluation.outcomes, evaluation.records
    categories: dict[str, list[Outcome]] = {}
    images: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.question.category is not None:
            categories.setdefault(one.question.category, []).append(one)
        images.setdefault(str(one.question.images), []).append(one)
    return {
        "records": len(records),
        **_scores(outcomes, records),
        **_answers(outcomes),
        "refusals": count_refusals(outcomes),
        "by_category": {name: _scores(categories[name], records) for name in sorted(categories)},
        "by_images": {name: _scores(images[name], records) for name in sorted(images, key=int)},
        "options": evaluation.spec.model_dump(mode="json"),
        "versions": {
            "triptych": triptych.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(evaluation.seconds, 2),
    }


def rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every question with the raw answer, as it is written to ``answers.jsonl``."""
    for one in evaluation.outcomes:
        question, record = one.question, evaluation.records[one.question.record]
        row: dict[str, Any] = {
            "id": record.id,
            "where": record.where,
            "turn": question.turn,
            "question": question.text,
            "category": question.category,
            "images": question.images,
            "expected": question.expected,
            "correct": one.correct,
        }
        if one.answer is not None:
            row["answer"] = one.answer.text
            row["prompt_tokens"] = one.answer.prompt_tokens
            row["finish_reason"] = one.answer.finish_reason
        if one.blind_correct is not None:
            row["blind_correct"] = one.blind_correct
        if one.blind_answer is not None:
            row["blind_answer"] = one.blind_answer.text
        yield row


def write_report(evaluation: Evaluation, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write ``answers.jsonl`` and ``summary.json`` into ``folder``; return the summary.

    Args:
        evaluation: what to write.
        folder: made when it does not exist.
        about: put before the scores, such as the names of model and data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = {**about, **summarise(evaluation)}
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(evaluation))
    _replace(folder / "answers.jsonl", "".join(lines))
    _replace(folder / "summary.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    return summary


def table(summary: dict[str, Any]) -> Table:
    """The summary for the terminal."""
    blind = summary["blind_accuracy"] is not None
    shown = Table("", title="exact match", title_justify="left")
    said = summary["anls"] is not None
    names = ("questions", "accuracy", *(("blind", "gain") if blind else ()))
    for name in (*names, *(("ANLS",) if said else ())):
        shown.add_column(name, justify="right")
    groups = {"all": summary}
    groups |= summary["by_category"]
    groups |= {f"{n} image{'' if n == '1' else 's'}": s for n, s in summary["by_images"].items()}
    for name, scores in groups.items():
        cells = [name, f"{scores['questions']:,}", _percent(scores["accuracy"])]
        if blind:
            cells += [_percent(scores["blind_accuracy"]), _gain(scores)]
        if said:
            cells.append(_percent(scores["anls"]))
        shown.add_row(*cells, end_section=name == "all")
    return shown


def _scores(outcomes: Sequence[Outcome], records: Sequence[Record]) -> dict[str, Any]:
    return {
        "questions": len(outcomes),
        "accuracy": _mean(one.correct for one in outcomes),
        "blind_accuracy": _mean(one.blind_correct for one in outcomes),
        "gain_margin": gain_margin(
            (_shown(records[one.question.record]), float(one.correct) - one.blind_correct)
            for one in outcomes
            if one.blind_correct is not None
        ),
        "anls": _mean(one.anls for one in outcomes),
        "blind_anls": _mean(one.blind_anls for one in outcomes),
    }


def _shown(record: Record) -> Hashable:
    """What a question is about; a record without images is about itself."""
    return tuple(image.location for image in record.images) or record.where


def _gain(scores: Mapping[str, Any]) -> str:
    gain, margin = scores["accuracy"] - scores["blind_accuracy"], scores["gain_margin"]
    return f"{100 * gain:+.1f}" + ("" if margin is None else f" ± {100 * margin:.1f}")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _answers(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares of answers in which there was nothing to compare, or that were cut."""
    answers = [one.answer for one in outcomes if one.answer is not None]
    if not answers:
        return {"empty_share": None, "cut_share": None}
    return {
        "empty_share": sum(not normalise(one.text) for one in answers) / len(answers),
        "cut_share": sum(one.finish_reason == "length" for one in answers) / len(answers),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
