import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.training.held_out import count_right


def slow_count(predicted: list[int], labels: list[list[int]]) -> tuple[int, int, int, int]:
    """Token by token, answer by answer."""
    right = tokens = whole = answers = 0
    left = iter(predicted)
    for row in labels:
        answer: list[bool] = []
        for label in [*row[1:], -100]:
            if label == -100:
                whole, answers = whole + bool(answer and all(answer)), answers + bool(answer)
                answer = []
                continue
            answer.append(next(left) == label)
            right, tokens = right + answer[-1], tokens + 1
    return right, tokens, whole, answers


def test_by_hand() -> None:
    labels = torch.tensor([[-100, 1, 2, -100, 3], [3, 1, -100, -100, -100]])
    logits = torch.eye(5)[[1, 4, 3, 1]]
    # answers [1 2] (wrong), [3] (right), [1] (right); the 3 in the first column has no prediction
    assert count_right(logits, labels) == (3, 4, 2, 3)


def test_nothing_supervised() -> None:
    assert count_right(torch.zeros(0, 5), torch.full((2, 3), -100)) == (0, 0, 0, 0)


@given(st.integers(1, 4).flatmap(lambda rows: st.integers(1, 9).flatmap(lambda width: st.lists(
    st.lists(st.sampled_from([-100, 0, 1]), min_size=width, max_size=width),
    min_size=rows, max_size=rows))), st.randoms(use_true_random=False))  # fmt: skip
def test_against_the_slow_count(labels: list[list[int]], random: object) -> None:
    supervised = sum(label != -100 for row in labels for label in row[1:])
    predicted = torch.randint(0, 2, (supervised,), generator=torch.Generator().manual_seed(1))
    logits = torch.eye(2)[predicted]
    assert count_right(logits, torch.tensor(labels)) == slow_count(predicted.tolist(), labels)
