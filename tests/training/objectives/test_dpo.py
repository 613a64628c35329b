import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.oracles import dpo as oracle
from tests.training.preferences import TRAIN, pair_batches, with_pairs, write_pairs
from tests.training.test_loop import assert_close, make_trainer
from tests.training.tiny import build, stage
from torch import Tensor

from triptych.data.corpus import measure
from triptych.data.encode import Encoder
from triptych.data.loader import Loader
from triptych.data.preferences import encode_pair, pair_key, sides
from triptych.data.readers import open_reader
from triptych.data.spec import BatchSpec, SourceSpec
from triptych.errors import DataError, RecipeError
from triptych.language.head import IGNORE
from triptych.spec import validate
from triptych.training.objectives.base import Totals
from triptych.training.objectives.dpo import (
    KEYS,
    Dpo,
    LogProbs,
    Reference,
    answer_logprobs,
    dpo_loss,
)
from triptych.training.objectives.spec import DpoObjective
from triptych.training.stages import StageSpec

DPO = {"kind": "dpo", "reference": "adapter_off", "beta": 0.5}


def some_logprobs(pairs: int, seed: int) -> tuple[LogProbs, LogProbs]:
    table = -20 * torch.rand(4, pairs, generator=torch.Generator().manual_seed(seed))
    return LogProbs(table[0], table[1]), LogProbs(table[2], table[3])


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_the_loss_is_that_of_the_paper(eps: float) -> None:
    policy, reference = some_logprobs(6, seed=1)
    found = dpo_loss(policy, reference, beta=0.3, label_smoothing=eps).loss
    values = zip(*(one.tolist() for one in (*policy, *reference)), strict=True)
    expected = [oracle.pair_loss(*four, 0.3, eps) for four in values]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


class CannedTokens(torch.nn.Module):
    """A model whose supervised tokens, all of them number 0, have these log-probabilities."""

    def __init__(self, logps: Tensor) -> None:
        super().__init__()
        self.logits = torch.stack([logps, torch.log1p(-logps.exp())], dim=1)

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


class Canned(torch.nn.Module):
    """A model of which TRL only sees log-probabilities that were chosen beforehand."""

    def __init__(self, logps: LogProbs) -> None:
        super().__init__()
        rows = torch.cat([logps.chosen, logps.rejected])
        self.table = rows[:, None] * torch.tensor([0.0, 0.0, 0.75, 0.25])

    def forward(self, **_: Any) -> SimpleNamespace:
        zeros = torch.zeros_like(self.table)
        return SimpleNamespace(
            log_probs=self.table, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )


def trl_loss(
    policy: LogProbs,
    reference: LogProbs,
    kinds: dict[str, float],
    beta: float,
    eps: float,
) -> float:
    """TRL's own code on the same log-probabilities."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    rows = 2 * len(policy.chosen)
    same = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, device="cpu")
    self = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=same,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=list(kinds),
        loss_weights=list(kinds.values()),
        label_smoothing=eps,
        beta=beta,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros(rows, 5, dtype=torch.long),
        "attention_mask": torch.ones(rows, 5, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 0, 0, 1, 1]]).repeat(rows, 1),
        "ref_chosen_logps": reference.chosen,
        "ref_rejected_logps": reference.rejected,
    }
    return float(trainer._compute_loss(self, Canned(policy), inputs, False))


def test_the_loss_is_trls_on_the_same_log_probabilities() -> None:
    policy, reference = some_logprobs(5, seed=2)
    ours = dpo_loss(policy, reference, beta=0.2).loss.mean()
    assert float(ours) == pytest.approx(
        trl_loss(policy, reference, {"sigmoid": 1.0}, 0.2, 0.0), rel=1e-6
    )


def test_the_weighted_sum_with_cross_entropy_is_trls() -> None:
    """Answers of TRL's stand-in have two tokens each."""
    policy, reference = some_logprobs(5, seed=3)
    known = SimpleNamespace(look_up=lambda *_: reference)
    objective = Dpo(DpoObjective(beta=0.2, sft_weight=0.7), cast(Reference, known))
    tokens = torch.stack(policy, dim=1).flatten()[:, None] * torch.tensor([0.75, 0.25])
    labels = torch.tensor([[IGNORE, 0, 0]]).repeat(10, 1)
    batch = {"labels": labels, KEYS: torch.zeros(5, 1)}
    ours = objective.loss(CannedTokens(tokens.flatten()), batch, Totals(items=5, tokens=30))
    theirs = trl_loss(policy, reference, {"sigmoid": 1.0, "sft": 0.7}, 0.2, 0.0)
    assert float(ours.value) == pytest.approx(theirs, rel=1e-5)
    assert float(ours.sums[0]) == pytest.approx(5 * theirs, rel=1e-5)


def test_label_smoothing_is_trls_for_a_single_pair() -> None:
    """In TRL 1.16 only "aot" smooths so; it sorts within the batch, and one pair has no order."""
    for seed in range(4):
        policy, reference = some_logprobs(1, seed)
        ours = dpo_loss(policy, reference, beta=0.2, label_smoothing=0.3).loss.mean()
        theirs = trl_loss(policy, reference, {"aot": 1.0}, 0.2, 0.3)
        assert float(ours) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_log_probabilities_are_sums_over_the_last_answer(tmp_path: Path, packed: bool) -> None:
    """Against the logits of each conversation alone, token by token."""
    spec = BatchSpec(tokens=512, tiles=32, packed=packed)
    sources = with_pairs(tmp_path / "data")
    model, processor, data = build(tmp_path, sources=sources, batch=spec)
    model.eval()
    (batch,) = pair_batches(processor, data, [[0, 2, 5]])
    inputs = {name: value for name, value in batch.items() if name != KEYS}
    found = answer_logprobs(model(**inputs).logits, inputs, 3)
    reader, encoder = open_reader(sources["pairs"].path, "jsonl", None), Encoder(processor, data)
    for place, index in enumerate((0, 2, 5)):
        for side, value in zip(sides(reader[index]), (found.chosen, found.rejected), strict=True):
            sample = encoder.sample(side)
            assert sample is not None
            one = processor.collate([sample.prompt], [encoder.tiles(side)], labels=False)
            rows = model(**one).logits[0].tolist()
            ids, learned = sample.prompt.input_ids, sample.prompt.supervised
            tokens = [at for at, kept in enumerate(learned) if kept]
            answer = processor.tokenizer.decode([ids[at] for at in tokens[:-1]])
            assert answer == side.messages[-1].text  # and no earlier answer
            expected = oracle.answer_logprob(
                [rows[at - 1] for at in tokens], [ids[a] for a in tokens]
            )
            assert value[place].item() == pytest.approx(expected, rel=1e-5)


def train_pairs(
    folder: Path, groups: Sequence[Sequence[int]], objective: dict[str, Any], **fields: Any
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights after training on these pairs, and the losses of the steps."""
    batch = BatchSpec(tokens=2048, tiles=64, packed=fields.pop("packed", False))
    model, processor, data = build(folder, sources=with_pairs(folder / "data"), batch=batch)
    batches = pair_batches(processor, data, groups)
    spec = stage(**{"train": TRAIN, "objective": objective, "optimizer": {"eps": 1e-3}, **fields})
    trainer = make_trainer(folder, model, processor, batches, spec, log_every=1)
    losses: list[float] = []

    def log_window(progress: Any, *_: Any) -> None:
        losses.append(progress.window.loss / progress.window.items)

    trainer.reporter.log_window = log_window  # type: ignore[method-assign]
    trainer.train()
    return model.state_dict(), losses


def test_neither_batches_nor_packing_change_the_objective(tmp_path: Path) -> None:
    objective = {**DPO, "sft_weight": 0.5}
    whole, losses = train_pairs(tmp_path / "1", [[0, 1, 2, 3, 5]], objective)
    split, same = train_pairs(tmp_path / "3", [[0], [1, 2, 3], [5]], objective)
    packed, again = train_pairs(tmp_path / "p", [[0, 1, 2], [3, 5]], objective, packed=True)
    assert losses[0] > math.log(2)  # the policy is the reference, and the answers cost something
    assert losses[-1] < losses[0]
    assert same == pytest.approx(losses, rel=1e-5)
    assert again == pytest.approx(losses, rel=1e-5)
    assert_close(split, whole, 1e-6)
    assert_close(packed, whole, 1e-6)


def test_adapter_off_and_stored_are_the_same_reference(tmp_path: Path) -> None:
    lora = {**TRAIN, "language": {"mode": "lora", "rank": 4, "dropout": 0.1}}
    off, losses = train_pairs(tmp_path / "off", [[0, 1, 2], [3]], DPO, train=lora)
    stored = {**DPO, "reference": "stored"}
    kept, same = train_pairs(tmp_path / "kept", [[0, 1, 2], [3]], stored, train=lora)
    assert losses[0] == pytest.approx(math.log(2), rel=1e-6)  # the policy is the reference
    assert same == pytest.approx(losses, rel=1e-5)
    assert_close(kept, off, 1e-6)


def test_chosen_answers_become_likelier(tmp_path: Path) -> None:
    full = {"connector": True, "language": "full"}
    objective = {"kind": "dpo", "beta": 0.1, "label_smoothing": 0.1}
    _, losses = train_pairs(
        tmp_path, [[0, 1, 2, 3, 4]], objective, train=full, steps=15, learning_rate=1e-2
    )
    least = oracle.pair_loss(math.log(9), 0, 0, 0, 1.0, 0.1)  # no loss is below this entropy
    assert least < losses[-1] < 0.9 * losses[0]


def test_both_sides_lose_the_same_rounds(tmp_path: Path) -> None:
    _, processor, data = build(tmp_path, sources=with_pairs(tmp_path / "data"))
    reader = open_reader(data.sources["pairs"].path, "jsonl", None)
    record = reader[2]
    whole = [len(one) for side in sides(record) if (one := Encoder(processor, data).prompt(side))]
    record = replace(record, rejected=f"{record.rejected} or {record.chosen}")  # a longer side
    tight = data.model_copy(update={"max_tokens": whole[0], "overflow": "trim_rounds"})
    pair = encode_pair(Encoder(processor, tight), record)
    assert pair is not None
    assert [one.trimmed for one in pair] == [1, 1]
    assert [len(one.record.messages) for one in pair] == [2, 2]
    dropped = data.model_copy(update={"max_tokens": whole[0], "overflow": "drop"})
    assert encode_pair(Encoder(processor, dropped), record) is None


def test_a_pair_takes_both_rows_of_the_budget(tmp_path: Path) -> None:
    _, processor, data = build(tmp_path, sources=with_pairs(tmp_path / "data"))
    for packed in (False, True):
        batch = BatchSpec(tokens=256, tiles=8, per_step=1, packed=packed)
        loader = Loader.open(
            processor, data.model_copy(update={"batch": batch}), seed=0, pairs=True, names=["pairs"]
        )
        batches = list(loader.once())
        assert sum(len(one[KEYS]) for one in batches) == 12
        assert max(one["input_ids"].numel() for one in batches) <= 256
        assert max(one["images_per_sample"].sum() for one in batches) <= 8
        keys = torch.cat([one[KEYS] for one in batches])
        assert len(keys.unique()) == 12 - duplicates(loader)


def duplicates(loader: Loader) -> int:
    found = [encode_pair(loader.encoder, loader.corpus.record(k)) for k in range(12)]
    return 12 - len({pair_key(*one) for one in found if one is not None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"connector": True}, "nothing else may train"),
        ({"language": "full"}, "without its LoRA matrices"),
        ({"towers": True}, "take reference 'stored'"),
    ],
)
def test_switching_adapters_off_needs_adapters_alone(changed: Any, message: str) -> None:
    raw = {"name": "s", "steps": 1, "train": {**TRAIN, **changed}, "objective": DPO}
    with pytest.raises(RecipeError, match=message):
        validate(StageSpec, raw, "test")


def test_records_without_a_preference_are_named(tmp_path: Path) -> None:
    _, processor, data = build(tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl:1: has no 'chosen' and 'rejected'"):
        Loader.open(processor, data, seed=0, pairs=True)
    path = write_pairs(tmp_path / "data")
    path.write_text(path.read_text().replace('"rejected": "green"', '"rejected": "red"'))
    source = {"pairs": SourceSpec(path=path)}
    with pytest.raises(DataError, match="are the same answer"):
        measure(source, Encoder(processor, data), pairs=True)
