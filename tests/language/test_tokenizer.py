from triptych.language import TrainedTokenizer, train_tokenizer

TEXTS = ["what color is the circle?", "is there a green shape in image 2?"] * 3


def test_the_same_texts_give_the_same_tokenizer() -> None:
    spec = TrainedTokenizer(vocabulary=320)
    first, second = train_tokenizer(TEXTS, spec), train_tokenizer(TEXTS, spec)
    assert first.get_vocab() == second.get_vocab()
    assert len(first) <= 320


def test_any_text_survives_the_round_trip() -> None:
    tokenizer = train_tokenizer(TEXTS, TrainedTokenizer(vocabulary=300))
    text = "größe 漢字 🙂  two spaces\nand a line"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_control_tokens_are_single_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, TrainedTokenizer(vocabulary=300))
    ids = tokenizer("<|user|>hi<|end|>")["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>")
    assert ids[-1] == tokenizer.eos_token_id
