import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from tests.synth.tiny_packages import write_drawings

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.images.decode import content_hash, open_image
from triptych.synth.drawings.catalogue import Folders, load_catalogue
from triptych.synth.drawings.pasted import Pasted
from triptych.synth.marks.grounds import UNSEEN, Ground
from triptych.synth.pipeline import build

SHARE = 0.3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return tuple(write_drawings(tmp_path_factory.mktemp("packages")).items())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, folders: Folders) -> dict[str, list[Record]]:
    out = tmp_path_factory.mktemp("built") / "pasted"
    build(Pasted(folders, size=160, share=SHARE, train=16, test=12), out)
    found = {}
    for path in sorted(out.glob("t*.jsonl")):
        records = open_reader(path, "jsonl", None)
        found[path.name] = [records[index] for index in range(len(records))]
    return found


def test_masks_are_the_pixels_that_the_things_changed(folders: Folders) -> None:
    drawings = load_catalogue(folders, SHARE).roles["train"]
    plain = [one for one in drawings if not one.loose]
    ground = Ground("plain", "own", "Apache-2.0", None, False)
    for seed in range(3):
        picture, things, shown = Pasted(folders, size=200)._paste(
            plain, ground, random.Random(seed)
        )
        bare = np.asarray(ground.draw(200, random.Random(seed)))
        changed = (np.asarray(picture) != bare).any(-1)
        masks = [np.asarray(thing.mask) > 0 for thing in things]
        assert sum(mask.astype(int) for mask in masks).max() == 1, "no two overlap"  # type: ignore
        assert not (np.any(masks, axis=0) & ~changed).any()
        # Edges are soft: what is half transparent has changed, and is of no mask.
        assert (changed & ~np.any(masks, axis=0)).sum() < 0.25 * changed.sum()
        for thing, mask, drawing in zip(things, masks, shown, strict=True):
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert thing.box == box
            assert thing.label == drawing.name


def test_held_out_pictures_show_unseen_things_on_unseen_grounds(
    files: dict[str, list[Record]],
) -> None:
    assert set(files) == {"train-drawn.jsonl", "train-text.jsonl", "test-drawn.jsonl",
                          "test-text.jsonl"}  # fmt: skip
    concepts: dict[str, set[str]] = defaultdict(set)
    grounds: dict[str, set[str]] = defaultdict(set)
    hashes: dict[str, set[str]] = defaultdict(set)
    for name, records in files.items():
        split = name.split("-")[0]
        for record in records:
            assert record.metadata is not None
            concepts[split].update(record.metadata["concepts"])  # type: ignore[arg-type]
            grounds[split].add(str(record.metadata["ground"]))
            hashes[split].add(content_hash(open_image(str(record.images[0].location))))
            assert record.license
            assert "MIT" in record.license or "Apache-2.0" in record.license
    for found in (concepts, grounds, hashes):
        assert found["train"].isdisjoint(found["test"])
    assert grounds["test"] <= UNSEEN
    kinds = {r.messages[-1].category for name in files if "test" in name for r in files[name]}
    assert "name" not in kinds
    assert {"find", "relation"} <= kinds


def test_the_verb(tmp_path: Path, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "pasted", "--out", str(tmp_path / "p"), "--size", "96"]
    command += ["--train", "4", "--test", "3", "--share", str(SHARE), "--workers", "1"]
    for name, folder in folders:
        command += ["--source", f"{name}={folder}"]
    assert main(command) == 0
    assert "train-drawn.jsonl" in capsys.readouterr().out
