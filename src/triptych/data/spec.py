"""The part of a recipe about data: sources, context, budgets, and what to do with bad records."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from triptych.data.blend import BlendSpec
from triptych.data.mixture import MixtureSpec
from triptych.images.decode import ImageLimits
from triptych.spec import Spec


def located(path: str) -> Path | str:
    """A path, unless it is the address of a remote file."""
    return path if "://" in path else Path(path)


Located: TypeAlias = Annotated[
    Path | str,
    BeforeValidator(lambda given: located(given) if isinstance(given, str) else given),
]


class SourceSpec(Spec):
    """One file of records."""

    path: Located
    """The file, folder or shards ({000..012}, *) that hold the records; or a remote address."""

    reader: str = "jsonl"
    """The format: jsonl (our records), llava, sharegpt, documents, captions, vqa, mimicit,
    sparkles, preference, detection, grounding, pose, layout, language, words or vlguard."""

    answers: Located | None = None
    """The second file of a format that has two: the annotations of VQA questions."""

    images: Path | None = None
    """The folder that relative image paths start from; the folder of the file when not given."""

    blend: BlendSpec | None = None
    """How records are made into conversations over several images; as they are when not given."""

    categories: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Only records of which every answer is of one of these categories; all when not given."""

    weight: float = Field(default=1.0, ge=0)
    """Passes over this source that one epoch makes; 0.5 takes another half each epoch."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many records, of these categories, are used; all when not given."""


class BatchSpec(Spec):
    """Micro-batches bounded by two budgets, and how many of them make an optimizer step."""

    tokens: int = Field(default=8192, ge=1)
    """Most tokens of a micro-batch, padding included: its rows times its longest row."""

    tiles: int = Field(default=64, ge=1)
    """Most image tiles of a micro-batch."""

    packed: bool = False
    """Join the samples of a micro-batch into one row, where they do not see each other."""

    samples: int | None = Field(default=None, ge=1)
    """Most samples of a micro-batch; no bound when not given."""

    per_step: int = Field(default=1, ge=1)
    """Micro-batches of one optimizer step, counted over all ranks together."""

    window: int = Field(default=1024, ge=1)
    """Samples that are sorted by length or packed together; larger wastes less, smaller mixes
    better."""


class DataSpec(Spec):
    """All data of a run."""

    sources: dict[str, SourceSpec] = Field(min_length=1)
    """Training sources by name."""

    mixture: MixtureSpec | None = None
    """How often an epoch reads each source, in place of the weights of the sources."""

    held_out: dict[str, SourceSpec] = Field(default_factory=dict)
    """Sources that are never trained on, for loss and accuracy during training."""

    max_tokens: int = Field(default=2048, ge=1)
    """Most tokens of one sample, images included: the context to train with."""

    overflow: Literal["error", "drop", "trim_rounds"] = "error"
    """What happens to a sample over max_tokens; trim_rounds removes its oldest rounds."""

    on_error: Literal["raise", "skip"] = "raise"
    """Whether a bad record or image stops the run or is skipped and listed in quarantine.jsonl."""

    batch: BatchSpec = BatchSpec()
    """Budgets of a micro-batch."""

    limits: ImageLimits = ImageLimits()
    """Largest image that is opened."""

    cache_features: bool = False
    """Compute the features of frozen towers once, before training, and read them from a file."""

    keep_tokens: bool = False
    """Keep the tokens of every sample in memory after they were first made, for small sets."""

    workers: int = Field(default=0, ge=0)
    """Processes that read and decode ahead; 0 reads in the training process."""
