"""The figure of the masks in the documentation is what the code draws."""

from importlib import util
from pathlib import Path

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def test_the_committed_figure_is_the_drawn_one() -> None:
    spec = util.spec_from_file_location("masks", FIGURES / "masks.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == (FIGURES / "masks.svg").read_text(encoding="utf-8")
