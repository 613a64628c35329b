import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.errors import DataError, ImageError
from triptych.synth.marks.grounds import PATTERNS, UNSEEN, WALLPAPERS, find_grounds


@pytest.fixture
def wallpapers(tmp_path: Path) -> Path:
    """Two wallpapers in the layout of the package, the second one truncated."""
    own = np.random.default_rng(0).integers(0, 255, (10, 16, 3), np.uint8)
    for name, license in (("Sea", "LGPLv3"), ("Sky", "CC-BY-SA-4.0")):
        folder = tmp_path / "usr/share/wallpapers" / name
        (folder / "contents/images").mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps({"KPlugin": {"License": license}}))
        for size in ((320, 200), (1280, 800), (1600, 1000)):
            path = folder / f"contents/images/{size[0]}x{size[1]}.png"
            Image.fromarray(own).resize(size, Image.Resampling.NEAREST).save(path)
    path = tmp_path / "usr/share/wallpapers/Sky/contents/images/1280x800.png"
    path.write_bytes(path.read_bytes()[:900])
    return tmp_path


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    (ground,) = (one for one in find_grounds(None, 0.2) if one.name == name)
    assert ground.unseen == (name in UNSEEN)
    pictures = [np.asarray(ground.draw(96, random.Random(seed))) for seed in (0, 0, 1)]
    assert pictures[0].shape == (96, 96, 3)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    # Axes along which each pattern changes.
    changes = tuple(bool(np.diff(pictures[0].astype(int), axis=axis).any()) for axis in (0, 1))
    expected = {"plain": {(False, False)}, "stripes": {(True, False)}}
    expected["gradient"] = {(True, False), (False, True)}
    assert changes in expected.get(name, {(True, True)})


def test_wallpapers_have_their_licences(wallpapers: Path) -> None:
    sea, sky = (one for one in find_grounds(wallpapers, 0.2) if one.file is not None)
    assert (sea.license, sky.license) == ("LGPL-3.0", "CC-BY-SA-4.0")
    assert sea.source == WALLPAPERS.source
    assert sea.file is not None
    assert sea.file.name == "1280x800.png", "the smallest that is large enough"
    assert sea.draw(64, random.Random(0)).size == (64, 64)
    with pytest.raises(ImageError, match=r"wallpaper .* truncated"):
        sky.draw(64, random.Random(0))


def test_another_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usr/share/wallpapers"):
        find_grounds(tmp_path, 0.2)
