import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.splice import summed_loss

from triptych.language.head import VocabularyHead, cross_entropy, supervised


@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(2, 6))
def test_loss_equals_the_oracle(seed: int, batch: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, 5, generator=generator)
    labels = torch.randint(0, 5, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < 0.5] = -100
    total, count = summed_loss(hidden, labels)
    logits, targets = supervised(hidden, labels)
    assert len(targets) == count
    assert float(cross_entropy(logits, targets, 7)) == pytest.approx(total / 7, abs=1e-5)


def test_nothing_supervised_gives_zero_with_a_gradient() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    logits, targets = supervised(hidden, torch.full((1, 3), -100))
    loss = cross_entropy(logits, targets, 5)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert hidden.grad.eq(0).all()


def test_scaling_and_capping_of_logits() -> None:
    head = torch.nn.Identity()
    hidden = torch.tensor([30.0])
    assert VocabularyHead({"logits_scaling": 3})(head, hidden) == 10
    assert VocabularyHead({"logit_scale": 0.5})(head, hidden) == 15
    capped = VocabularyHead({"final_logit_softcapping": 10.0})(head, hidden)
    assert torch.allclose(capped, 10 * torch.tanh(torch.tensor([3.0])))
