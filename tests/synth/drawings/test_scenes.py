import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from tests.synth.tiny_packages import write_drawings

from triptych.errors import DataError
from triptych.synth.drawings.catalogue import load_catalogue
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.render import flatten, render
from triptych.synth.drawings.scenes import QUARTERS, Placed, Scene, crowd, quarters

SIZE = 96


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Drawing]:
    folders = tuple(write_drawings(tmp_path_factory.mktemp("packages")).items())
    found = load_catalogue(folders, 0.3).roles["train"]
    return [one for one in found if not one.loose]


def shown_at(scene: Scene, name: str) -> Placed:
    (found,) = (one for one in scene.placed if one.drawing.name == name)
    return found


def test_every_drawing_stands_whole_where_the_scene_says(drawings: Sequence[Drawing]) -> None:
    for seed in range(4):
        rng = random.Random(seed)
        for scene in (crowd(drawings, SIZE, rng), quarters(drawings, SIZE, rng, named=True)):
            sheet = np.asarray(scene.draw())
            inked = np.zeros(sheet.shape[:2], bool)
            for one in scene.placed:
                rows = slice(one.top, one.top + scene.side)
                columns = slice(one.left, one.left + scene.side)
                alone = np.asarray(flatten(render(one.drawing.art, scene.side)))
                assert (sheet[rows, columns] == alone).all()
                assert not inked[rows, columns].any(), "no two overlap"
                inked[rows, columns] = True
            assert (sheet[~inked] == 255).all()


def test_counts_are_those_of_the_sheet(drawings: Sequence[Drawing]) -> None:
    answers: Counter[str] = Counter()
    for seed in range(200):
        scene = crowd(drawings, SIZE, random.Random(seed))
        some, everything = scene.questions
        name = some.question.split("pictures of ")[1].split(" are there")[0].rstrip(".?")
        assert some.answer == str(sum(one.drawing.name == name for one in scene.placed))
        assert everything.answer == str(len(scene.placed))
        answers[some.answer] += 1
    assert min(answers[str(n)] for n in range(1, 6)) > 20, "every count is about as frequent"


def test_places_are_those_of_the_sheet(drawings: Sequence[Drawing]) -> None:
    sides: Counter[str] = Counter()
    for seed in range(100):
        scene = quarters(drawings, SIZE, random.Random(seed), named=True)
        position, relation, name = scene.questions
        assert len({one.drawing.concept.key for one in scene.placed}) == 4
        asked = position.question.split("picture of ")[1].split(":")[0]
        assert position.answer == quarter(shown_at(scene, asked), scene)
        assert all(where in position.question for where in QUARTERS)
        one, side_and_other = relation.question.removeprefix("Is the picture of ").split(
            " to the ", 1
        )
        side, other = side_and_other.split(" of the picture of ")
        left, right = shown_at(scene, one), shown_at(scene, other.rstrip("?"))
        assert (relation.answer == "yes") == ((left.left < right.left) == (side == "left"))
        where = next(where for where in QUARTERS if where in name.question)
        assert quarter(shown_at(scene, name.answer), scene) == where
        sides[relation.answer] += 1
    assert min(sides.values()) > 30


def quarter(one: Placed, scene: Scene) -> str:
    vertical = "top" if one.top < scene.size // 2 else "bottom"
    return f"{vertical} {'left' if one.left < scene.size // 2 else 'right'}"


def test_too_few_things_make_no_scene(drawings: Sequence[Drawing]) -> None:
    with pytest.raises(DataError, match="too few different things"):
        quarters(drawings[:2], SIZE, random.Random(0), named=False)
