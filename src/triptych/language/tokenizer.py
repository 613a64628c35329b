"""A small byte-level BPE tokenizer trained on the texts of the data."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from triptych.spec import Spec

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")


class TrainedTokenizer(Spec):
    """A byte-level BPE tokenizer trained on the texts of the data, for models from scratch."""

    kind: Literal["train"] = "train"
    """Says that the tokenizer is trained when the model is made."""
    vocabulary: int = Field(default=512, ge=300)
    """Number of tokens, the 256 bytes and the control tokens included."""


def train_tokenizer(texts: Iterable[str], spec: TrainedTokenizer) -> PreTrainedTokenizerFast:
    """Train the tokenizer. The same texts in the same order give the same tokenizer.

    Args:
        texts: what the model will read and write.
        spec: the size of the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
