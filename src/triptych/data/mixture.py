"""A mixture: a tree of sources, and what it amounts to in passes over each of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from triptych.errors import RecipeError
from triptych.spec import Spec


class MixtureSpec(Spec):
    """A node of the mixture: a group with parts, or a source."""

    parts: "dict[str, MixtureSpec] | None" = Field(default=None, min_length=1)
    """The nodes below by name; a node without parts is the source of its name."""

    weight: float = Field(default=1.0, gt=0)
    """Share among the parts of the node above, relative to theirs."""

    temperature: float | None = Field(default=None, gt=0)
    """Of a group: its parts' weights are multiplied by their size to the power 1/temperature (1 is
    in proportion, larger is flatter); sizes do not count when not given."""

    cap: int | None = Field(default=None, ge=1)
    """Of a source: most samples that an epoch takes of it."""

    repeats: float | None = Field(default=None, gt=0)
    """Of a source: most passes over it that an epoch makes."""

    epochs: float | None = Field(default=None, gt=0)
    """Of a source: exactly so many passes in each epoch, outside the shares."""

    samples: int | None = Field(default=None, ge=1)
    """Of the whole mixture: samples of an epoch; as many as its sources have when not given."""

    unit: Literal["samples", "tokens"] = "samples"
    """Of the whole mixture: what the shares are counted in."""


@dataclass(frozen=True)
class Amount:
    """What one source is worth: samples, tokens and images of one pass."""

    samples: int
    tokens: int
    images: int


@dataclass
class _Leaf:
    """A source on its way to its number of samples."""

    name: str
    share: float
    most: float
    taken: float = 0.0


def resolve(spec: MixtureSpec, amounts: Mapping[str, Amount]) -> dict[str, float]:
    """Passes over each source that one epoch makes.

    What a source may not take because of ``cap`` or ``repeats`` is shared out among the others in
    proportion to their shares; when all are full, the epoch is smaller.

    Args:
        spec: the root of the mixture.
        amounts: the usable samples of each source.

    Raises:
        RecipeError: a source is unknown, named twice, or has fields of a group.
    """
    leaves = list(_leaves("mixture", spec, 1.0, amounts))
    names = [name for name, _, _ in leaves]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"data.mixture: source '{twice[0]}' is named twice")
    passes = {name: node.epochs for name, node, _ in leaves if node.epochs is not None}
    free = [
        _Leaf(name, share * _unit(spec, amounts[name]), _most(node, amounts[name]))
        for name, node, share in leaves
        if node.epochs is None
    ]
    fixed = sum(count * amounts[name].samples for name, count in passes.items())
    total = spec.samples or sum(amounts[name].samples for name in names)
    _fill(free, max(total - fixed, 0.0))
    passes |= {leaf.name: leaf.taken / amounts[leaf.name].samples for leaf in free}
    return {name: passes[name] for name in names}


def describe(passes: Mapping[str, float], amounts: Mapping[str, Amount]) -> list[str]:
    """A table of what one epoch takes: a line for each source and one for all."""
    rows = []
    for name, count in passes.items():
        one = amounts[name]
        rows.append((name, one.samples * count, one.tokens * count, one.images * count, count))
    samples = sum(row[1] for row in rows)
    tokens, images = sum(row[2] for row in rows), sum(row[3] for row in rows)
    width = max([len(row[0]) for row in rows] + [len("source")])
    head = f"{'source':<{width}} {'samples':>10} {'share':>6} {'tokens':>12} {'share':>6} "
    lines = [head + f"{'images':>10} {'epochs':>7}"]
    for name, own_samples, own_tokens, own_images, count in rows:
        lines.append(
            f"{name:<{width}} {own_samples:>10.0f} {own_samples / max(samples, 1):>6.1%} "
            f"{own_tokens:>12.0f} {own_tokens / max(tokens, 1):>6.1%} {own_images:>10.0f} "
            f"{count:>7.3g}"
        )
    lines.append(
        f"{'all':<{width}} {samples:>10.0f} {1:>6.1%} {tokens:>12.0f} {1:>6.1%} {images:>10.0f}"
    )
    return lines


def _leaves(
    name: str, node: MixtureSpec, share: float, amounts: Mapping[str, Amount]
) -> Iterator[tuple[str, MixtureSpec, float]]:
    """Name, node and share of every source below ``node``."""
    if node.parts is None:
        if name not in amounts:
            known = ", ".join(amounts)
            raise RecipeError(f"data.mixture: unknown source '{name}'; data.sources has {known}")
        if node.temperature is not None:
            raise RecipeError(f"data.mixture: '{name}' is a source, so it has no temperature")
        yield name, node, share
        return
    limits = (node.cap, node.repeats, node.epochs)
    if any(limit is not None for limit in limits):
        raise RecipeError(
            f"data.mixture: '{name}' is a group; cap, repeats and epochs belong to its sources"
        )
    parts = {
        key: part
        for key, part in node.parts.items()
        if part.parts is not None or part.epochs is None
    }
    exponent = 0.0 if node.temperature is None else 1 / node.temperature
    weights = {
        key: part.weight * float(_size(key, part, amounts)) ** exponent
        for key, part in parts.items()
    }
    for key, part in node.parts.items():
        own = share * weights[key] / sum(weights.values()) if key in weights else 0.0
        yield from _leaves(key, part, own, amounts)


def _size(name: str, node: MixtureSpec, amounts: Mapping[str, Amount]) -> int:
    """Samples below a node."""
    if node.parts is not None:
        return sum(_size(key, part, amounts) for key, part in node.parts.items())
    return amounts[name].samples if name in amounts else 1


def _most(node: MixtureSpec, amount: Amount) -> float:
    """Most samples that a source may give."""
    limits = [float("inf") if node.cap is None else float(node.cap)]
    if node.repeats is not None:
        limits.append(node.repeats * amount.samples)
    return min(limits)


def _unit(spec: MixtureSpec, amount: Amount) -> float:
    """What turns a share in the mixture's unit into one in samples."""
    return 1.0 if spec.unit == "samples" else amount.samples / max(amount.tokens, 1)


def _fill(leaves: Sequence[_Leaf], total: float) -> None:
    """Share ``total`` samples out; what is over a leaf's most goes to the others."""
    left, hungry = total, list(leaves)
    while hungry:
        shares = sum(leaf.share for leaf in hungry)
        full = [leaf for leaf in hungry if left * leaf.share / shares >= leaf.most]
        for leaf in full or hungry:
            leaf.taken = min(left * leaf.share / shares, leaf.most)
        if not full:
            return
        left -= sum(leaf.most for leaf in full)
        hungry = [leaf for leaf in hungry if leaf not in full]
