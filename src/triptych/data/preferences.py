"""Preference data for training: one question, with the chosen answer and with the rejected one."""

import hashlib
from dataclasses import replace

import numpy as np

from triptych.data.encode import Encoder, Sample, SampleSize
from triptych.data.features import image_name
from triptych.data.record import LEARNED_ROLES, Record
from triptych.data.roles import split_rounds
from triptych.errors import DataError


def sides(record: Record) -> tuple[Record, Record]:
    """The conversation with the chosen answer, and with the rejected one; nothing else is learned.

    Raises:
        DataError: the record has no preference, or both answers are the same.
    """
    if record.chosen is None or record.rejected is None:
        raise DataError(
            f"{record.where}: has no 'chosen' and 'rejected' answer, which objective 'dpo' learns "
            "from; leave its source out of the stage (stages.N.data)"
        )
    if record.chosen.strip() == record.rejected.strip():
        raise DataError(f"{record.where}: 'chosen' and 'rejected' are the same answer")
    context = tuple(
        replace(m, loss=False) if m.role in LEARNED_ROLES else m for m in record.messages
    )
    asked = replace(record, messages=context)
    return asked.answered(record.chosen), asked.answered(record.rejected)


def encode_pair(encoder: Encoder, record: Record) -> tuple[Sample, Sample] | None:
    """Encode both sides; each has to fit, and both lose the same rounds where rounds are trimmed.

    Returns:
        Chosen and rejected, or None when one is too long and the policy is ``drop``.

    Raises:
        DataError: as ``Encoder.sample`` and ``sides``.
    """
    both = sides(record)
    found = [encoder.sample(side) for side in both]
    trimmed = max((one.trimmed for one in found if one is not None), default=0)
    for place, one in enumerate(found):
        if one is not None and one.trimmed != trimmed:
            found[place] = encoder.sample(_without_rounds(both[place], trimmed))
    chosen, rejected = found
    if chosen is None or rejected is None:
        return None
    return replace(chosen, trimmed=trimmed), replace(rejected, trimmed=trimmed)


def pair_size(encoder: Encoder, record: Record) -> SampleSize | None:
    """What a pair takes of the budgets; None and errors as ``encode_pair``.

    It has two rows of a padded micro-batch, so its tokens are twice the longer side's; packed, they
    are the sum of both. Its tiles are counted twice.
    """
    sizes = [encoder.size(side) for side in sides(record)]
    if any(one is None or one.trimmed for one in sizes):
        pair = encode_pair(encoder, record)
        if pair is None:
            return None
        sizes = [SampleSize(len(s.prompt), s.tiles, len(s.record.images), s.trimmed) for s in pair]
    known = [one for one in sizes if one is not None]
    tokens = [one.tokens for one in known]
    return SampleSize(
        tokens=sum(tokens) if encoder.spec.batch.packed else 2 * max(tokens),
        tiles=sum(one.tiles for one in known),
        images=sum(one.images for one in known),
        trimmed=known[0].trimmed,
    )


def pair_key(chosen: Sample, rejected: Sample) -> int:
    """A name (64 bits) for a pair: a hash of its tokens and of the names of its images."""
    ids = np.array([*chosen.prompt.input_ids, -1, *rejected.prompt.input_ids], dtype=np.int64)
    digest = hashlib.blake2b(ids.tobytes(), digest_size=8)
    for part in chosen.record.images:
        digest.update(image_name(part).encode())
    return int.from_bytes(digest.digest(), "little", signed=True)


def _without_rounds(record: Record, count: int) -> Record:
    """The record without its ``count`` oldest rounds."""
    head, rounds = split_rounds(record.messages)
    left = tuple(message for part in rounds[count:] for message in part)
    return replace(record, messages=head + left)
