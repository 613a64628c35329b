"""Every kernel against the row-by-row oracle: values and gradients."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.attention.layouts import (
    KERNELS,
    RULES,
    SCALE,
    Case,
    cases,
    make_rule,
    needs_native,
    run,
    splits_image,
    tensors,
)
from tests.oracles.attention import IMAGE, PAD, TEXT, oracle
from torch import Tensor

from triptych.attention import Rule, blocks, intervals
from triptych.attention.kernels import blocked


def expected(rule: Rule, case: Case, inputs: list[Tensor]) -> Tensor:
    return oracle(
        rule.name, rule.image_scope, *inputs, case.kinds, SCALE, case.documents, case.images
    )


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=30)
@given(case=cases(), choice=st.sampled_from(RULES))
def test_values_and_gradients_equal_the_oracle(
    kernel: str, case: Case, choice: tuple[str, str]
) -> None:
    rule, inputs = make_rule(*choice), tensors(case)
    found, wanted = run(kernel, rule, case, *inputs), expected(rule, case, inputs)
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=1e-5)
    probe = torch.randn_like(wanted)
    grads = torch.autograd.grad(found, inputs, probe)
    for one, other in zip(grads, oracle_gradients(wanted, inputs, probe), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def oracle_gradients(out: Tensor, inputs: list[Tensor], probe: Tensor) -> list[Tensor]:
    if not out.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    grads = torch.autograd.grad(out, inputs, probe, allow_unused=True)
    return [
        torch.zeros_like(one) if grad is None else grad
        for one, grad in zip(inputs, grads, strict=True)
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=30)
@given(case=cases(chunked=True), choice=st.sampled_from(RULES))
def test_queries_behind_a_cache_equal_the_oracle(
    kernel: str, case: Case, choice: tuple[str, str]
) -> None:
    rule, inputs = make_rule(*choice), tensors(case)
    assume(rule.image_scope == "self" or not splits_image(case))
    found, wanted = run(kernel, rule, case, *inputs), expected(rule, case, inputs)
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["dense", "packed", "blocked"])
@settings(max_examples=30)
@given(case=cases(), choice=st.sampled_from(RULES))
def test_bf16_errs_no_more_than_the_naive_computation(
    kernel: str, case: Case, choice: tuple[str, str]
) -> None:
    """Worst error over the tensor, against the oracle in fp32 on the same rounded inputs."""
    rule, inputs = make_rule(*choice), tensors(case, torch.bfloat16)
    exact = [one.detach().float().requires_grad_() for one in inputs]
    wanted = expected(rule, case, exact)
    probe = torch.randn_like(wanted).bfloat16()
    truth = [wanted, *oracle_gradients(wanted, exact, probe.float())]
    ours, naive = (
        [out, *torch.autograd.grad(out, inputs, probe)]
        for out in (run(name, rule, case, *inputs) for name in (kernel, "reference"))
    )
    for one, other, true in zip(ours, naive, truth, strict=True):
        assert one.dtype == torch.bfloat16
        tolerance = 2**-7 * max(1.0, true.abs().max().item())
        assert error(one, true) <= error(other, true) + tolerance


def error(found: Tensor, true: Tensor) -> float:
    return (found.float() - true).abs().max().item()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("choice", RULES)
def test_a_later_image_leaves_earlier_outputs_bit_equal(
    kernel: str, choice: tuple[str, str]
) -> None:
    """DeepSpeed-VisualChat D2: text before the first image read all later images."""
    case = many_images()
    inputs = tensors(case)
    before = run(kernel, make_rule(*choice), case, *inputs)
    second = (case.images == 2) & (case.kinds == IMAGE)
    start = int(second[0].nonzero()[0])
    for one in inputs:
        one.data[:, :, start:] += 3.0
    after = run(kernel, make_rule(*choice), case, *inputs)
    assert torch.equal(before[:, :, :start], after[:, :, :start])
    assert not torch.equal(before[:, :, start:], after[:, :, start:])


def many_images() -> Case:
    kinds = [TEXT] * 5 + [IMAGE] * 6 + [TEXT] * 3 + [IMAGE] * 6 + [TEXT] * 4
    images = [0] * 5 + [1] * 6 + [0] * 3 + [2] * 6 + [0] * 4
    shape = torch.tensor([kinds, kinds])
    return Case(shape, torch.zeros_like(shape), torch.tensor([images, images]), len(kinds), 4, 2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_images_do_not_depend_on_their_context(kernel: str) -> None:
    case = many_images()
    query, key, value = tensors(case)
    image = case.kinds[0] == IMAGE
    first = run(kernel, make_rule("mmca"), case, query, key, value)
    for one in (query, key, value):
        one.data[:, :, ~image] += 1.0
    second = run(kernel, make_rule("mmca"), case, query, key, value)
    assert torch.equal(first[:, :, image], second[:, :, image])
    own = value.repeat_interleave(2, 1)[:, :, image]
    assert torch.equal(first[:, :, image], own)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("choice", RULES)
def test_rows_that_see_nothing_are_zero(kernel: str, choice: tuple[str, str]) -> None:
    kinds = torch.tensor([[PAD] * 6, [PAD, PAD, TEXT, IMAGE, TEXT, PAD]])
    case = Case(kinds, torch.zeros_like(kinds), (kinds == IMAGE).long(), 6, 2, 2)
    inputs = tensors(case)
    out = run(kernel, make_rule(*choice), case, *inputs)
    padding = (kinds == PAD)[:, None].expand(-1, 2, -1)
    assert torch.equal(out[padding], torch.zeros_like(out[padding]))
    grads = torch.autograd.grad(out.sum(), inputs)
    assert all(grad.isfinite().all() for grad in grads)
    assert all(grad[padding].eq(0).all() for grad in grads)


@pytest.mark.parametrize("choice", [one for one in RULES if one[0] != "causal"])
@pytest.mark.parametrize("limits", [(4, 3, 6, 1), (1, 1, 1, 1), (640, 128, 256, 1 << 40)])
def test_the_sizes_of_blocks_do_not_matter(
    choice: tuple[str, str], limits: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small limits send a small case through joined softmaxes, cut tiles and single heads."""
    names = ("TILE_KEYS", "BLOCK_ROWS", "LONGEST_BLOCK")
    for name, limit in zip(names, limits[:3], strict=True):
        monkeypatch.setattr(blocks, name, limit)
    monkeypatch.setattr(blocked, "_BUDGET_BYTES", limits[3])
    check_against_reference("blocked", make_rule(*choice), many_images())


def check_against_reference(kernel: str, rule: Rule, case: Case) -> None:
    """Values and gradients, where the oracle would take too long."""
    inputs = tensors(case)
    found, wanted = (run(one, rule, case, *inputs) for one in (kernel, "reference"))
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=1e-5)
    probe = torch.randn_like(found)
    grads = zip(
        torch.autograd.grad(found, inputs, probe),
        torch.autograd.grad(wanted, inputs, probe),
        strict=True,
    )
    for one, other in grads:
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-5)


@needs_native
@pytest.mark.parametrize("choice", RULES)
@pytest.mark.parametrize("limits", [(1, 1, 0), (3, 4, 2), (5, 7, 4)])
def test_the_sizes_of_intervals_do_not_matter(
    choice: tuple[str, str], limits: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small limits send a small case through many blocks, and tiles of scattered keys."""
    for name, limit in zip(("BLOCK", "TILE", "_SHORT_RUN"), limits, strict=True):
        monkeypatch.setattr(intervals, name, limit)
    monkeypatch.setattr(intervals, "_WASTED_PAIRS", 0)
    check_against_reference("native", make_rule(*choice), many_images())


@needs_native
@pytest.mark.parametrize("choice", RULES)
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (3, 3), (6, 3), (3, 1)])
def test_native_over_several_blocks_and_tiles(
    choice: tuple[str, str], heads: int, key_heads: int
) -> None:
    """Runs longer and shorter than a tile, two documents, padding, one thread's heads and more."""
    row = [PAD] * 3 + [TEXT] * 70 + ([IMAGE] * 150 + [TEXT] * 9 + [IMAGE] * 20 + [TEXT] * 30) * 2
    kinds = torch.tensor([row, [TEXT] * len(row)])
    runs = torch.tensor([row]).diff(prepend=torch.zeros(1, 1)).ne(0).cumsum(1).expand(2, -1)
    documents = (torch.arange(len(row)) > 300).long().expand(2, -1)
    case = Case(kinds, documents, runs * (kinds == IMAGE), len(row), heads, key_heads)
    check_against_reference("native", make_rule(*choice), case)


@torch.no_grad()
@pytest.mark.parametrize("choice", RULES)
def test_flex_equals_the_oracle(choice: tuple[str, str]) -> None:
    """On a CPU it has no gradient; the intervals are the same."""
    case, rule = many_images(), make_rule(*choice)
    inputs = [one.detach() for one in tensors(case, depth=16)]
    found = run("flex", rule, case, *inputs)
    torch.testing.assert_close(found, expected(rule, case, inputs), atol=3e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["packed", "flex"])
@pytest.mark.parametrize("choice", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_equals_the_oracle(kernel: str, choice: tuple[str, str], dtype: torch.dtype) -> None:
    case, rule = many_images(), make_rule(*choice)
    inputs = tensors(case, dtype, depth=64)
    wanted = expected(rule, case, [one.float() for one in inputs])
    found = run(kernel, rule, case, *[one.cuda() for one in inputs]).cpu().float()
    tolerance = 3e-6 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
