import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.splice import splice_rows

from triptych.errors import SpanError
from triptych.fusion.spans import check_spans
from triptych.fusion.splice import splice


@st.composite
def layouts(draw: st.DrawFn) -> tuple[torch.Tensor, list[int], list[int]]:
    """Rows of text and image runs, some runs touching, padded to one length."""
    rows, tokens, per_sample = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        lengths = draw(st.lists(st.integers(1, 4), max_size=4))
        row: list[bool] = [False] * draw(st.integers(0, 2))
        for length in lengths:
            row += [True] * length + [False] * draw(st.integers(0, 2))
        rows.append(row or [False])
        tokens += lengths
        per_sample.append(len(lengths))
    longest = max(map(len, rows))
    return torch.tensor([r + [False] * (longest - len(r)) for r in rows]), tokens, per_sample


@given(layouts())
def test_matching_layouts_pass(layout: tuple[torch.Tensor, list[int], list[int]]) -> None:
    check_spans(*layout)


@given(layouts(), st.integers(0, 100))
def test_one_token_lost_is_found(
    layout: tuple[torch.Tensor, list[int], list[int]], pick: int
) -> None:
    placeholders, tokens, per_sample = layout
    places = placeholders.nonzero()
    if not len(places):
        return
    row, column = places[pick % len(places)].tolist()
    placeholders[row, column] = False
    with pytest.raises(SpanError, match=f"sample {row}"):
        check_spans(placeholders, tokens, per_sample)


def test_the_message_names_sample_image_expected_and_found() -> None:
    placeholders = torch.tensor([[False] * 6, [True, True, False, True, False, False]])
    with pytest.raises(SpanError, match=r"sample 1, image 2: expected 2 placeholders.*found 1"):
        check_spans(placeholders, [2, 2], [0, 2])


def test_placeholders_without_images_are_found() -> None:
    with pytest.raises(SpanError, match=r"sample 0: expected 0 placeholders.*found 1"):
        check_spans(torch.tensor([[True, False]]), [], [0])


def test_image_counts_must_add_up() -> None:
    with pytest.raises(SpanError, match="claim 2 images in all, but the features of 1"):
        check_spans(torch.tensor([[True]]), [1], [2])


@given(layouts())
def test_splice_equals_the_oracle(layout: tuple[torch.Tensor, list[int], list[int]]) -> None:
    placeholders, tokens, _ = layout
    embeddings = torch.randn(*placeholders.shape, 3)
    visual = torch.randn(sum(tokens), 3)
    found = splice(embeddings, placeholders, visual)
    assert torch.equal(found, splice_rows(embeddings, placeholders, visual))


def test_gradients_reach_features_and_text_only_where_they_are() -> None:
    placeholders = torch.tensor([[True, False, True]])
    embeddings = torch.randn(1, 3, 2, requires_grad=True)
    visual = torch.randn(2, 2, requires_grad=True)
    splice(embeddings, placeholders, visual).sum().backward()
    assert embeddings.grad is not None
    assert visual.grad is not None
    assert embeddings.grad[0, :, 0].tolist() == [0.0, 1.0, 0.0]
    assert visual.grad.eq(1).all()
