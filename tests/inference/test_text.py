from hypothesis import given
from hypothesis import strategies as st
from tests.inference.tiny import tiny_engine

from triptych.inference.text import TextStream, decode

TOKENIZER = None


def stream(ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    text = TextStream(tokenizer(), stops)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return [*pieces, text.flush()], text


def tokenizer():  # noqa: ANN201
    global TOKENIZER
    if TOKENIZER is None:
        TOKENIZER = tiny_engine().processor.tokenizer
    return TOKENIZER


def test_a_character_of_several_tokens_comes_in_one_piece() -> None:
    ids = tokenizer()("héllo 漢字 🙂 end")["input_ids"]
    pieces, text = stream(ids)
    assert "".join(pieces) == text.text == "héllo 漢字 🙂 end"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "🙂" in "".join(pieces)


@given(st.text(max_size=40), st.lists(st.text("ab \n", min_size=1, max_size=3), max_size=2))
def test_pieces_join_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    ids = tokenizer()(text)["input_ids"]
    pieces, got = stream(ids, tuple(stops))
    whole = decode(tokenizer(), ids)
    expected = min((whole.split(stop)[0] for stop in stops), key=len, default=whole).strip()
    assert "".join(pieces) == got.text == expected


def test_an_incomplete_character_at_the_end_is_not_lost() -> None:
    ids = tokenizer()("ok 🙂")["input_ids"][:-1]
    pieces, text = stream(ids)
    assert "".join(pieces) == text.text
    assert text.text.startswith("ok")
