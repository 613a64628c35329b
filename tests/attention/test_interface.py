"""The rules as attention functions of transformers, on a language model alone."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from tests.oracles.attention import IMAGE, PAD, TEXT
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.attention import make_rule, plan_attention, register_attention
from triptych.attention.interface import attention_forward
from triptych.attention.layout import AttentionLayout
from triptych.errors import RecipeError, SpanError

MMCA = make_rule("mmca")


def tiny_llama(implementation: str) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        attn_implementation=implementation,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def layout_of(*rows: list[int], queries: int | None = None) -> AttentionLayout:
    kinds = torch.tensor(rows)
    return plan_attention(MMCA, kinds, kinds.shape[1] if queries is None else queries)


def attend(layout: AttentionLayout, **change: Any) -> Tensor:
    """One call of the attention function on random tensors."""
    heads, batch, keys = 2, len(layout.tokens.kinds), layout.keys
    query, key, value = (torch.randn(batch, heads, n, 4) for n in (layout.queries, keys, keys))
    arguments: dict[str, Any] = {"attention_layout": layout, "attention_mask": None, **change}
    module = torch.nn.Module()
    return attention_forward(MMCA, module, query, key, value, **arguments)[0]


@torch.no_grad()
def test_kinds_reach_every_layer_and_are_enough() -> None:
    model = tiny_llama(register_attention(MMCA))
    ids = torch.randint(40, (2, 9))
    kinds = torch.tensor([[PAD, TEXT, TEXT, IMAGE, IMAGE, TEXT, IMAGE, TEXT, TEXT]] * 2)
    found = model(ids, token_kinds=kinds).logits
    planned = model(ids, attention_layout=plan_attention(MMCA, kinds, 9)).logits
    assert torch.equal(found, planned)
    with pytest.raises(RecipeError, match="needs token_kinds"):
        model(ids)


@torch.no_grad()
@pytest.mark.parametrize("name", ["causal", "mmca", "mmca_as_coded"])
def test_text_alone_is_causal_attention_bit_for_bit(name: str) -> None:
    rule = make_rule(name)
    model = tiny_llama("sdpa")
    ids = torch.randint(40, (2, 21))
    wanted = model(ids).logits
    model.set_attn_implementation(register_attention(rule))
    assert torch.equal(model(ids, token_kinds=torch.ones_like(ids)).logits, wanted)


@torch.no_grad()
def test_a_static_cache_is_cut_to_the_tokens_there_are() -> None:
    layout = layout_of([TEXT, IMAGE, TEXT, TEXT], queries=1)
    query, key, value = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4)
    module = torch.nn.Module()
    cut, _ = attention_forward(
        MMCA, module, query, key[:, :, :4], value[:, :, :4], None, attention_layout=layout
    )
    whole, _ = attention_forward(MMCA, module, query, key, value, None, attention_layout=layout)
    assert torch.equal(cut, whole)


@torch.no_grad()
def test_keys_in_another_order_than_their_places() -> None:
    """Images first in the cache, as when they are computed once and reused."""
    kinds = [TEXT, TEXT, IMAGE, IMAGE, TEXT, IMAGE, TEXT, TEXT]
    order = torch.tensor([2, 3, 5, 0, 1, 4, 6, 7])
    query, key, value = (torch.randn(1, 2, 8, 4) for _ in range(3))
    module = torch.nn.Module()
    whole, _ = attention_forward(
        MMCA, module, query, key, value, None, attention_layout=layout_of(kinds)
    )
    moved = plan_attention(MMCA, torch.tensor([kinds])[:, order], 5, token_places=order[None])
    text, _ = attention_forward(
        MMCA, module, query[:, :, order[3:]], key[:, :, order], value[:, :, order], None,
        attention_layout=moved,
    )  # fmt: skip
    torch.testing.assert_close(text, whole[:, order[3:]], atol=1e-6, rtol=1e-5)


def test_values_may_be_narrower_than_keys() -> None:
    """As in multi-head latent attention; the kernels for a CPU want one width."""
    layout = layout_of([TEXT] * 5 + [IMAGE] * 4 + [TEXT] * 3)
    query, key, value = (torch.randn(1, 2, 12, width) for width in (4, 4, 3))
    module = torch.nn.Module()
    padded = torch.nn.functional.pad(value, (0, 1))
    narrow, wide = (
        attention_forward(MMCA, module, query, key, one, None, attention_layout=layout)[0]
        for one in (value, padded)
    )
    torch.testing.assert_close(narrow, wide[..., :3], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.1}, "has no dropout, found 0.1"),
        ({"sliding_window": 3}, "sliding window of 3 tokens of this language model in a sequence"),
        ({"softcap": 30.0}, "cannot honour softcap"),
        ({"s_aux": torch.zeros(2)}, "cannot honour s_aux"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "takes token_kinds, not an attention mask"),
        ({"attention_layout": layout_of([TEXT] * 9)}, "describe 9 queries and 9 keys, but the"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(change: dict[str, Any], message: str) -> None:
    query = torch.randn(1, 2, 4, 4)
    arguments: dict[str, Any] = {"attention_layout": layout_of([TEXT, IMAGE, TEXT, TEXT])}
    arguments |= {"attention_mask": None} | change
    with pytest.raises(RecipeError, match=message):
        attention_forward(MMCA, torch.nn.Module(), query, query, query, **arguments)


def test_a_window_that_hides_nothing_is_fine() -> None:
    assert attend(layout_of([TEXT, IMAGE, TEXT, TEXT]), sliding_window=4).isfinite().all()


@pytest.mark.parametrize(
    ("name", "scope"), [("mcma", "self"), ("mmca", "tile"), ("causal", "image")]
)
def test_unknown_rules_are_refused(name: str, scope: str) -> None:
    with pytest.raises(RecipeError, match=r"expected|needs attention"):
        make_rule(name, scope)


def test_bad_layouts_name_the_sample() -> None:
    whole = make_rule("mmca", "image")
    kinds = torch.tensor([[TEXT] * 4, [TEXT, IMAGE, IMAGE, TEXT]])
    with pytest.raises(SpanError, match="sample 1: an image is cut in two"):
        plan_attention(whole, kinds, 2)
    assert plan_attention(whole, kinds, 3).queries == 3
    documents = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0]])
    with pytest.raises(SpanError, match="sample 1: the tokens of a document do not stand together"):
        plan_attention(MMCA, kinds, 4, document_ids=documents)
    with pytest.raises(SpanError, match="5 queries, but token_kinds has only 4"):
        plan_attention(MMCA, kinds, 5)


def test_the_choice_of_kernel() -> None:
    """Without native_c long sequences by blocks, ragged batches at once; few queries densely."""
    long = [TEXT] * 100 + [IMAGE] * 576 + [TEXT] * 100
    assert layout_of(long).prefers_blocks
    assert not layout_of(
        *[[TEXT] * n + [IMAGE] * 4 + [TEXT] * (20 - n) for n in range(16)]
    ).prefers_blocks
    assert layout_of(long, queries=1).masks is not None
    assert layout_of([TEXT] * 9).plain
    assert layout_of([TEXT] * 9, queries=1).plain
    assert not layout_of([PAD, TEXT, TEXT]).plain


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_code_serves_all_layouts(backend: str) -> None:
    """One graph without breaks, and no new one for new lengths and image places."""
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    model = tiny_llama(register_attention(MMCA))

    def run(states: Tensor, layout: AttentionLayout) -> Tensor:
        out = model.model(inputs_embeds=states, attention_layout=layout, use_cache=False)
        return out.last_hidden_state

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=counter, fullgraph=True)
    for images in range(1, 6):
        row = [TEXT] * 3 + ([IMAGE] * (2 + images) + [TEXT] * images) * images
        kinds = torch.tensor([row, [PAD] * 2 + row[:-2]])
        layout = plan_attention(MMCA, kinds, kinds.shape[1])
        states = torch.randn(2, kinds.shape[1], 32, requires_grad=True)
        found, wanted = compiled(states, layout), run(states, layout)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        probe = torch.randn_like(wanted)
        grads = [torch.autograd.grad(out, states, probe)[0] for out in (found, wanted)]
        torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-3)
    assert counter.frame_count <= 3
    torch._dynamo.reset()
