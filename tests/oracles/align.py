"""The alignment loss from its definition, one number at a time."""

import math
from collections.abc import Sequence

Vector = Sequence[float]


def cosine(a: Vector, b: Vector) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def losses(
    images: Sequence[Vector],
    texts: Sequence[Vector],
    center: Vector,
    temperature: float,
    distance_weight: float,
) -> list[float]:
    """The loss of each pair of an image and a text."""
    seen = [[x - c for x, c in zip(one, center, strict=True)] for one in images]
    said = [[x - c for x, c in zip(one, center, strict=True)] for one in texts]
    found = []
    for own, (image, text) in enumerate(zip(seen, said, strict=True)):
        alike = [k for k, other in enumerate(said) if other == text]
        as_texts = [cosine(image, other) / temperature for other in said]
        as_images = [cosine(other, text) / temperature for other in seen]
        loss = 0.0
        for scores in (as_texts, as_images):
            total = sum(math.exp(score) for score in scores)
            loss += sum(-math.log(math.exp(scores[k]) / total) for k in alike) / len(alike) / 2
        apart = sum((x - y) ** 2 for x, y in zip(image, text, strict=True))
        found.append(loss + distance_weight * apart / sum(y * y for y in text))
        assert own in alike
    return found
