"""Every format we read, in tiny files of its real layout."""

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from triptych.data.readers import open_reader
from triptych.data.readers.shards import ShardTable
from triptych.data.schema import ImagePart, Record, TextPart
from triptych.errors import DataError
from triptych.images.decode import image_size


def png(shade: int = 10) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def shown(record: Record) -> list[tuple[str, list[str | bytes]]]:
    """Role and parts of each message: texts as they are, images as ``<name>`` or bytes."""
    found: list[tuple[str, list[str | bytes]]] = []
    for message in record.messages:
        parts: list[str | bytes] = []
        for part in message.content:
            if isinstance(part, TextPart):
                parts.append(part.text)
            else:
                parts.append(part.image if isinstance(part.image, bytes) else f"<{part.image}>")
        found.append((message.role, parts))
    return found


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def test_sharegpt_of_both_spellings(tmp_path: Path) -> None:
    first = {
        "conversations": [
            {"from": "human", "value": "<image>What?"},
            {"from": "gpt", "value": "Red."},
        ],
        "system": "Be brief.",
        "images": ["a.png"],
    }
    second = {
        "messages": [
            {"role": "user", "content": "Hi <image> and <image>"},
            {"role": "assistant", "content": "Two."},
        ],
        "images": ["a.png", "b.png"],
    }
    reader = open_reader(write(tmp_path / "s.json", [first, second]), "sharegpt")
    assert shown(reader[0]) == [
        ("system", ["Be brief."]),
        ("user", ["<a.png>", "What?"]),
        ("assistant", ["Red."]),
    ]
    assert shown(reader[1])[0] == ("user", ["Hi ", "<a.png>", " and ", "<b.png>"])


def test_documents_of_parallel_lists_and_of_placed_images(tmp_path: Path) -> None:
    obelics = {"texts": [None, "A dog.", None, "A cat."], "images": ["a.png", None, "b.png", None]}
    mmc4 = {
        "text_list": ["First.", "Second.", "Third."],
        "image_info": [
            {"image_name": "b.png", "matched_text_index": 2, "matched_sim": 0.3},
            {"image_name": "a.png", "matched_text_index": 0, "matched_sim": 0.2},
        ],
    }
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, (obelics, mmc4))), "utf-8")
    reader = open_reader(path, "documents")
    assert shown(reader[0]) == [("document", ["<a.png>", "A dog.", "<b.png>", "A cat."])]
    parts = ["<a.png>", "First. ", "Second. ", "<b.png>", "Third."]
    assert shown(reader[1]) == [("document", parts)]


def test_coco_captions_are_joined_to_their_images(tmp_path: Path) -> None:
    coco = {
        "info": {"images": 3},
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 3, "caption": "A dog. "},
            {"id": 2, "image_id": 7, "caption": "A cat."},
            {"id": 3, "image_id": 7, "caption": "One cat."},
        ],
    }
    reader = open_reader(write(tmp_path / "captions.json", coco), "captions")
    assert len(reader) == 2
    assert reader[1].images[0].image == "a.jpg"
    assert reader[1].messages[1].text == "A dog."
    assert reader[0].messages[1].text in ("A cat.", "One cat.")
    again = open_reader(tmp_path / "captions.json", "captions")
    assert [again[k] for k in range(2)] == [reader[k] for k in range(2)]


def test_vqa_questions_find_their_annotations(tmp_path: Path) -> None:
    questions = {"questions": [{"image_id": 9, "question": "What?", "question_id": 90}]}
    votes = [{"answer": "red"}, {"answer": "blue"}, {"answer": "red"}]
    answers = {"annotations": [{"question_id": 90, "image_id": 9, "answers": votes}]}
    path = write(tmp_path / "q.json", questions)
    reader = open_reader(path, "vqa", answers=write(tmp_path / "a.json", answers))
    assert shown(reader[0])[0] == ("user", ["<000000000009.jpg>", "What?"])
    assert reader[0].messages[1].text == "red"
    with pytest.raises(DataError, match="name the file of annotations"):
        open_reader(path, "vqa")
    plain = write(tmp_path / "l.json", [{"image": "a.png", "question": "Q?", "answer": ["x", "x"]}])
    assert open_reader(plain, "vqa")[0].messages[1].text == "x"


def test_mimicit_merges_related_instructions_and_reads_stored_images(tmp_path: Path) -> None:
    def item(number: int, images: list[str], *related: str) -> dict[str, Any]:
        return {
            "instruction": f"Q{number}",
            "answer": f"A{number}",
            "image_ids": images,
            "rel_ins_ids": list(related),
        }

    data = {
        "I1": item(1, ["X", "Y"], "I3", "I2", "gone"),
        "I2": item(2, ["X", "Y"], "I1"),
        "I3": item(3, ["X", "Y"]),
        "I4": item(4, ["Y"], "I1"),
    }
    path = write(tmp_path / "ins.json", {"meta": {"data": []}, "data": data})
    stored = {"X": base64.b64encode(png(1)).decode(), "Y": base64.b64encode(png(2)).decode()}
    reader = open_reader(path, "mimicit", write(tmp_path / "images.json", stored))
    assert len(reader) == 2
    first = shown(reader[0])
    assert first[0][1][:2] == [png(1), png(2)]
    questions = [parts[-1] for role, parts in first if role == "user"]
    assert sorted(str(question) for question in questions) == ["Q1", "Q2", "Q3"]
    assert [parts[0] for role, parts in first if role == "assistant"] == [
        str(question).replace("Q", "A") for question in questions
    ]
    assert shown(reader[1])[0] == ("user", [png(2), "Q4"])
    assert open_reader(path, "mimicit", tmp_path)[1].images[0].image == "Y.jpg"


def test_sparkles_names_images_in_one_family(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "See IMAGE#12 and IMAGE#1.", "images": [
            {"image_id": 1, "caption": "x"}, {"image_id": 12, "caption": "y"}]},
        {"role": "assistant", "content": "IMAGE#12 is red. Not IMAGE#1."},
        {"role": "user", "content": "<Img><ImageHere></Img>And?", "images": [{"image_id": 5}]},
        {"role": "assistant", "content": "Yes. IMAGE#5 too."},
    ]  # fmt: skip
    reader = open_reader(write(tmp_path / "s.json", [{"dialogue": turns}]), "sparkles")
    record = reader[0]
    assert [image.image for image in record.images] == ["1.jpg", "12.jpg", "5.jpg"]
    first, second, last = (record.messages[k].text for k in (0, 1, 3))
    families = {
        "See image b and image a.": ("Image b is red. Not image a.", "Yes. Image c too."),
        "See image B and image A.": ("Image B is red. Not image A.", "Yes. Image C too."),
        "See the second image and the first image.": (
            "The second image is red. Not the first image.", "Yes. The third image too."),
    }  # fmt: skip
    assert families[first] == (second, last)


def test_preference_pairs_and_what_is_learned_of_them(tmp_path: Path) -> None:
    pair = {"prompt": "What?", "images": ["a.png"], "chosen": "Red.", "rejected": "Blue."}
    turns = [{"from": "human", "value": "<image>Q"}]
    rejected = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "No"}]
    chosen = {"from": "gpt", "value": "Yes"}
    other = {"conversations": turns, "image": "b.png", "chosen": chosen, "rejected": rejected}
    reader = open_reader(write(tmp_path / "p.json", [pair, other]), "preference")
    assert (reader[0].chosen, reader[0].rejected) == ("Red.", "Blue.")
    assert shown(reader[0]) == [("user", ["<a.png>", "What?"])]
    assert shown(reader[0].settled())[-1] == ("assistant", ["Red."])
    assert (reader[1].chosen, reader[1].rejected) == ("Yes", "No")
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(reader[0].to_json()), "utf-8")
    assert open_reader(own)[0].chosen == "Red."
    own.write_text('{"messages": [{"role": "user", "content": "q"}], "chosen": "x"}', "utf-8")
    with pytest.raises(DataError, match="belong together"):
        open_reader(own)[0]


def rows() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": [
                    {"type": "image", "text": None, "image": {"bytes": png(k), "path": None}},
                    {"type": "text", "text": f"Q{k}", "image": None}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": f"A{k}", "image": None}]},
            ]
        }
        for k in range(7)
    ]  # fmt: skip


def test_parquet_reads_the_row_group_that_is_asked_for(tmp_path: Path) -> None:
    for shard in range(2):
        table = pa.Table.from_pylist(rows())
        pq.write_table(table, tmp_path / f"p-{shard}.parquet", row_group_size=3)
    reader = open_reader(tmp_path / "p-{0..1}.parquet")
    assert len(reader) == 14
    assert shown(reader[11]) == [("user", [png(4), "Q4"]), ("assistant", ["A4"])]
    assert reader.where(11) == f"{tmp_path / 'p-1.parquet'}:5"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="is not a Parquet file"):
        open_reader(tmp_path / "bad.parquet")


def test_a_saved_dataset_is_read_from_its_folder(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    file = str(tmp_path / "data-00000-of-00001.arrow")
    with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    write(tmp_path / "state.json", state)
    reader = open_reader(tmp_path)
    assert len(reader) == 7
    assert shown(reader[5])[0] == ("user", [png(5), "Q5"])
    write(tmp_path / "state.json", {**state, "_indices_files": [{"filename": "i.arrow"}]})
    with pytest.raises(DataError, match="flatten_indices"):
        open_reader(tmp_path)


def shard(samples: dict[str, dict[str, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for key, parts in samples.items():
            for part, content in parts.items():
                info = tarfile.TarInfo(f"{key}.{part}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def talk(*images: str) -> bytes:
    parts = [{"type": "image", "image": image} for image in images]
    content = [*parts, {"type": "text", "text": "left.png"}]
    answer = {"role": "assistant", "content": "Yes."}
    return json.dumps({"messages": [{"role": "user", "content": content}, answer]}).encode()


def test_shards_are_indexed_without_unpacking(tmp_path: Path) -> None:
    two = {"json": talk("right.png", "left.png"), "left.png": png(1), "right.png": png(2)}
    (tmp_path / "s-00.tar").write_bytes(shard({"x/000": two, "x/001": {"json": talk()}}))
    (tmp_path / "s-01.tar").write_bytes(shard({"000": two}))
    reader = open_reader(tmp_path / "s-*.tar")
    assert len(reader) == 3
    assert shown(reader[0])[0] == ("user", [png(2), png(1), "left.png"])
    assert shown(reader[1])[0] == ("user", ["left.png"])
    assert shown(reader[2]) == shown(reader[0])
    assert reader.where(2) == f"{tmp_path / 's-01.tar'}:1"
    assert isinstance(reader[2].images[0], ImagePart)
    assert image_size(reader[2].images[0].location) == (6, 4)
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="is not a tar file"):
        open_reader(tmp_path / "bad.tar")


def test_caption_shards_and_remote_files(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    samples = {f"{k:03d}": {"jpg": png(k), "txt": f"Shade {k}.".encode()} for k in range(3)}
    system.pipe("/shards/s-00.tar", shard(samples))
    reader = open_reader("memory://shards/s-*.tar", "captions")
    assert len(reader) == 3
    assert reader[2].messages[1].text == "Shade 2."
    assert reader[2].images[0].image == png(2)
    system.pipe("/a.jsonl", talk() + b"\n" + talk())
    lines = open_reader("memory://a.jsonl")
    assert len(lines) == 2
    assert lines[1].messages[1].text == "Yes."
    assert lines.where(1) == "memory://a.jsonl:2"
    for missing in ((tmp_path / "none.jsonl").as_uri(), "nosuch://a.jsonl", "memory://none.tar"):
        with pytest.raises(DataError, match="cannot be"):
            open_reader(missing)


def test_a_shard_index_grows_by_numbers_alone(tmp_path: Path) -> None:
    samples = {f"{k:06d}": {"jpg": b"x" * 50, "txt": b"y"} for k in range(500)}
    (tmp_path / "s.tar").write_bytes(shard(samples))
    table = ShardTable(tmp_path / "s.tar")
    assert table.samples.shape == (501, 2)
    assert table.members.shape == (1000, 3)
    assert table._parts == ["jpg", "txt"]
