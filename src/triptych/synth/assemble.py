"""From what was made of each item to the files of a data set, with splits that share no picture."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from triptych.errors import DataError
from triptych.synth.files import MANIFEST, Manifest

SPLITS = ("test", "val", "train")
"""In the order in which they keep a picture that several of them have."""
QUARANTINE = "quarantine.jsonl"


def assemble(
    folder: Path, parts: Sequence[Path], prefix: str, plan: Mapping[str, object]
) -> Manifest:
    """Write the records of all parts into their files, and what the folder says about itself.

    A picture that is in a held-out split is in no other one, whatever it is called there: samples
    that would show it are left out. Pictures that no sample shows are removed.

    Args:
        folder: the folder of the records.
        parts: one JSON file for each item, in order.
        prefix: of the ids ``prefix/<file>/<number>``.
        plan: what the folder is built from.

    Raises:
        DataError: not one sample is left.
    """
    owners = _owners(parts)
    files: Counter[str] = Counter()
    licenses: dict[str, Counter[str]] = {}
    rejected: list[dict[str, str]] = []
    shown: set[str] = set()
    with ExitStack() as stack:
        opened: dict[str, TextIO] = {}
        for fields in _read(parts):
            rejected += fields["rejected"]
            for sample in fields["samples"]:
                name, record = sample["file"], sample["record"]
                twin = _twin(sample, fields["hashes"], owners)
                if twin is not None:
                    rejected.append(twin)
                    continue
                if name not in opened:
                    path = folder / name
                    opened[name] = stack.enter_context(path.open("w", encoding="utf-8"))
                numbered = {"id": f"{prefix}/{Path(name).stem}/{files[name]:06d}", **record}
                opened[name].write(json.dumps(numbered, ensure_ascii=False) + "\n")
                files[name] += 1
                licenses.setdefault(record["license"], Counter())[record["source"]] += 1
                shown.update(sample["images"])
    if not files:
        reasons = "; ".join(f"{one['where']}: {one['reason']}" for one in rejected[:3])
        raise DataError(f"{prefix}: not one sample could be made ({reasons or 'no reason given'})")
    _remove_unshown(folder, shown)
    _write_lines(folder / QUARANTINE, rejected)
    manifest = Manifest(
        dict(plan),
        dict(sorted(files.items())),
        {name: dict(sorted(sources.items())) for name, sources in sorted(licenses.items())},
        len(rejected),
        sum((folder / name).stat().st_size for name in (*files, *shown)),
    )
    (folder / MANIFEST).write_text(
        json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return manifest


def _owners(parts: Sequence[Path]) -> dict[str, int]:
    """The split that keeps each picture: the number of a split by the hash of the pixels."""
    owners: dict[str, int] = {}
    for fields in _read(parts):
        for sample in fields["samples"]:
            if sample["split"] not in SPLITS:
                raise ValueError(f"{sample['file']} is of no split ({', '.join(SPLITS)})")
            if not sample["record"].get("license") or not sample["record"].get("source"):
                raise ValueError(f"a sample of {sample['file']} has no source or no licence")
            rank = SPLITS.index(sample["split"])
            for name in sample["images"]:
                found = fields["hashes"][name]
                owners[found] = min(rank, owners.get(found, rank))
    return owners


def _twin(
    sample: Mapping[str, Any], hashes: Mapping[str, str], owners: Mapping[str, int]
) -> dict[str, str] | None:
    """Why a sample may not be used: a split that comes before its own shows one of its pictures."""
    rank = SPLITS.index(sample["split"])
    for name in sample["images"]:
        owner = owners[hashes[name]]
        if owner < rank:
            reason = f"the same picture is in the {SPLITS[owner]} split"
            return {"where": f"{sample['file']}: {name}", "reason": reason}
    return None


def _read(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for part in parts:
        fields: dict[str, Any] = json.loads(part.read_text(encoding="utf-8"))
        yield fields


def _remove_unshown(folder: Path, shown: set[str]) -> None:
    for path in sorted(folder.glob("images/*/*")):
        if path.relative_to(folder).as_posix() not in shown:
            path.unlink()
    for path in folder.glob("images/*"):
        if not any(path.iterdir()):
            path.rmdir()


def _write_lines(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    path.unlink(missing_ok=True)
    if lines:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
