"""Answering: batches, conversations with a kept cache, sampling."""

from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine, load_engine
from triptych.inference.requests import Answer
from triptych.inference.sampling import SamplingSpec

__all__ = ["Answer", "Conversation", "Engine", "SamplingSpec", "load_engine"]
