from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import data_spec, many

from triptych.data.loader import Loader
from triptych.data.mixture import Amount, MixtureSpec, describe, resolve
from triptych.data.spec import SourceSpec
from triptych.errors import RecipeError
from triptych.model.processing import TriptychProcessor
from triptych.spec import validate

AMOUNTS = {
    "a": Amount(100, 1000, 100),
    "b": Amount(400, 40_000, 800),
    "c": Amount(10_000, 10_000, 0),
}


def passes(mixture: dict[str, Any]) -> dict[str, float]:
    return resolve(validate(MixtureSpec, mixture, "test"), AMOUNTS)


def samples(mixture: dict[str, Any]) -> dict[str, float]:
    return {name: AMOUNTS[name].samples * n for name, n in passes(mixture).items()}


def test_weights_share_an_epoch_out() -> None:
    mixture = {"samples": 1000, "parts": {"a": {"weight": 1}, "b": {"weight": 3}}}
    assert samples(mixture) == pytest.approx({"a": 250, "b": 750})


def test_groups_share_what_their_node_has() -> None:
    group = {"weight": 1, "parts": {"b": {}, "c": {"weight": 4}}}
    mixture = {"samples": 1000, "parts": {"a": {"weight": 1}, "rest": group}}
    assert samples(mixture) == pytest.approx({"a": 500, "b": 100, "c": 400})


@pytest.mark.parametrize(("temperature", "ratio"), [(1, 100), (2, 10), (1e9, 1)])
def test_temperature_flattens_sizes(temperature: float, ratio: float) -> None:
    mixture = {"samples": 101, "temperature": temperature, "parts": {"a": {}, "c": {}}}
    found = samples(mixture)
    assert found["c"] / found["a"] == pytest.approx(ratio, rel=1e-6)
    assert sum(found.values()) == pytest.approx(101)


def test_caps_and_repeats_give_what_is_left_to_the_others() -> None:
    parts = {"a": {"weight": 2, "repeats": 1.5}, "b": {"cap": 100}, "c": {}}
    assert samples({"samples": 1000, "parts": parts}) == pytest.approx(
        {"a": 150, "b": 100, "c": 750}
    )
    full = {"a": {"cap": 10}, "b": {"cap": 20}}
    assert samples({"samples": 1000, "parts": full}) == pytest.approx({"a": 10, "b": 20})


def test_fixed_epochs_stand_outside_the_shares() -> None:
    parts = {"a": {"epochs": 2}, "b": {"weight": 9}, "c": {"weight": 1}}
    assert samples({"samples": 1200, "parts": parts}) == pytest.approx(
        {"a": 200, "b": 900, "c": 100}
    )


def test_shares_may_be_counted_in_tokens() -> None:
    found = samples({"unit": "tokens", "samples": 1010, "parts": {"b": {}, "c": {}}})
    assert found["b"] * 100 == pytest.approx(found["c"] * 1)
    assert sum(found.values()) == pytest.approx(1010)


def test_without_a_number_of_samples_an_epoch_is_as_long_as_its_sources() -> None:
    assert sum(samples({"temperature": 1, "parts": {"a": {}, "b": {}}}).values()) == 500
    assert passes({"temperature": 1, "parts": {"a": {}, "b": {}}}) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"parts": {"x": {}}}, "unknown source 'x'"),
        ({"parts": {"a": {}, "g": {"parts": {"a": {}}}}}, "'a' is named twice"),
        ({"parts": {"g": {"cap": 3, "parts": {"a": {}}}}}, "'g' is a group"),
        ({"parts": {"a": {"temperature": 2}}}, "'a' is a source"),
        ({"parts": {"a": {"wieght": 2}}}, "did you mean 'weight'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        passes(mixture)


def test_the_loader_reads_what_the_table_says(processor: TriptychProcessor, tmp_path: Path) -> None:
    sources = {
        name: SourceSpec(path=many(tmp_path, count, f"{name}.jsonl"))
        for name, count in (("a", 10), ("b", 40))
    }
    parts = {"a": MixtureSpec(weight=3), "b": MixtureSpec()}
    mixture = MixtureSpec(samples=40, parts=parts)

    def open_loader(workers: int) -> Loader:
        spec = data_spec(tmp_path, sources=sources, mixture=mixture, workers=workers)
        return Loader.open(processor, spec, seed=3)

    loader = open_loader(0)
    drawn = [loader.corpus.locate(k)[0].name for batch in loader._plan(0) for k in batch]
    assert (drawn.count("a"), drawn.count("b")) == (30, 10)
    assert loader._plan(0) == open_loader(2)._plan(0)
    table = loader.amounts()
    assert table == describe({"a": 3, "b": 0.25}, loader.corpus.amounts())
    assert table[1].split()[:3] == ["a", "30", "75.0%"]
    assert table[-1].split()[:2] == ["all", "40"]
