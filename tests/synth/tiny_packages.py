"""Tiny packages in the real layouts, made by the tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

# Words, meaning and the first words of what it is a kind of.
SYNSETS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("entity", "that which exists", ()),
    ("artifact", "a man-made object", ("entity",)),
    ("instrumentality", "an artifact that serves an end", ("artifact",)),
    ("organism", "a living thing", ("entity",)),
    ("animal", "a living organism that moves", ("organism",)),
    ("plant", "a living organism lacking locomotion", ("organism",)),
    ("food", "any substance that can be metabolized", ("entity",)),
    ("fruit", "the ripened part of a seed plant", ("food",)),
    ("tree", "a tall perennial woody plant", ("plant",)),
    ("apple_tree", "a tree with apples", ("tree",)),
    ("dog barker", 'a member of the genus Canis; "the dog barked"', ("animal",)),
    ("cat", "feline mammal", ("animal",)),
    ("fox", "alert carnivorous mammal", ("animal",)),
    ("cow", "female of domestic cattle", ("animal",)),
    ("apple", "fruit with red or yellow skin", ("fruit",)),
    ("mango", "large oval tropical fruit", ("fruit",)),
    ("pear", "sweet juicy fruit", ("fruit",)),
    ("cherry", "a red fruit with a single stone", ("fruit",)),
    ("car auto automobile", "a motor vehicle with four wheels", ("artifact",)),
    ("bus", "a vehicle carrying many passengers", ("artifact",)),
    ("boat", "a small vessel for travel on water", ("artifact",)),
    ("hammer", "a hand tool with a heavy head", ("instrumentality",)),
    ("mouse", "small rodent", ("animal",)),
)
EMOJI: Sequence[tuple[str, str, str]] = (
    ("1F436", "dog face", "animal-mammal"),
    ("1F415", "dog", "animal-mammal"),
    ("1F408", "cat", "animal-mammal"),
    ("1F98A", "fox", "animal-mammal"),
    ("1F404", "cow", "animal-mammal"),
    ("1F401", "mouse", "animal-mammal"),
    ("1F34E", "red apple", "food-fruit"),
    ("1F34F", "green apple", "food-fruit"),
    ("1F96D", "mango", "food-fruit"),
    ("1F350", "pear", "food-fruit"),
    ("1F352", "cherries", "food-fruit"),
    ("1F697", "automobile", "transport-ground"),
    ("1F68C", "bus", "transport-ground"),
    ("26F5", "boat", "transport-water"),
    ("1F528", "hammer", "tool"),
    ("2764-FE0F", "red heart", "heart"),
    ("1F1E9", "flag: Denmark", "country-flag"),
)
SUBGROUPS = tuple(dict.fromkeys(subgroup for _, _, subgroup in EMOJI))
SVG = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"{more}>{body}'
    "</svg>"
)


def write_wordnet(folder: Path, synsets: Sequence[tuple[str, str, tuple[str, ...]]]) -> None:
    """data.noun and index.noun with true offsets; the other files with little in them."""
    folder.mkdir(parents=True)
    header = "  1 A licence stands here.  \n"
    offsets: dict[str, int] = {}
    place = len(header)
    for _ in range(2):  # the second time every offset is known
        place, lines = len(header), []
        for words, meaning, parents in synsets:
            names = words.split()
            offsets[names[0]] = place
            pointers = " ".join(f"@ {offsets.get(one, 0):08d} n 0000" for one in parents)
            listed = " ".join(f"{name} 0" for name in names)
            line = f"{place:08d} 05 n {len(names):02x} {listed} {len(parents):03d} {pointers} "
            lines.append(f"{line}| {meaning}  \n".replace("  |", " |"))
            place += len(lines[-1].encode())
    (folder / "data.noun").write_text(header + "".join(lines))
    index = [
        f"{name.lower()} n 1 1 @ 1 1 {offsets[words.split()[0]]:08d}  \n"
        for words, _, _ in synsets
        for name in words.split()
    ]
    (folder / "index.noun").write_text(header + "".join(index))
    (folder / "noun.exc").write_text("mice mouse\n")
    for part, words in (("adj", ("red", "green", "old")), ("verb", ("run",)), ("adv", ("up",))):
        (folder / f"index.{part}").write_text(
            header + "".join(f"{word} a 1 0 1 0 00000001  \n" for word in words)
        )


def write_emojibase(folder: Path) -> None:
    (folder / "en").mkdir(parents=True)
    (folder / "meta").mkdir()
    groups = {"0": "things", "1": "flags"}
    entries = [
        {
            "hexcode": code,
            "label": label,
            "group": int(subgroup == "country-flag"),
            "subgroup": SUBGROUPS.index(subgroup),
            "order": number,
            "tags": [f"{label.split()[-1]}ish", label],
        }
        for number, (code, label, subgroup) in enumerate(EMOJI)
    ]
    entries.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    names = {str(number): name for number, name in enumerate(SUBGROUPS)}
    (folder / "en" / "data.json").write_text(json.dumps(entries))
    (folder / "meta" / "groups.json").write_text(json.dumps({"groups": groups, "subgroups": names}))


def body(number: int, style: int) -> str:
    """A drawing like no other: a shape whose place and colour say which."""
    colour = f"#{(37 * number + 90 * style) % 200:02x}{(91 * number) % 200:02x}{style * 60:02x}"
    side = 8 + number % 9
    return (
        f'<rect x="{number % 7 + 2}" y="{style + 3}" width="{side}" height="20" fill="{colour}"/>'
    )


def write_icons(folder: Path, style: int, bodies: Mapping[str, str] | None = None) -> None:
    folder.mkdir(parents=True)
    names = {code: label.replace(" ", "-").replace(":", "") for code, label, _ in EMOJI}
    icons = {
        name: {"body": (bodies or {}).get(name, body(number, style))}
        for number, name in enumerate(names.values())
    }
    aliases = {}
    if style == 1:  # as fluent has it: one icon is another one turned around
        del icons["cow"]
        aliases["cow"] = {"parent": "bus", "hFlip": True}
    whole = {"icons": icons, "aliases": aliases, "width": 32, "height": 32}
    (folder / "icons.json").write_text(json.dumps(whole))
    chars = {code.lower().replace("-fe0f", ""): name for code, name in names.items()}
    (folder / "chars.json").write_text(json.dumps(chars))


def clip(title: str, shape: str, license: str = "PublicDomain") -> str:
    metadata = (
        '<metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{}</dc:title><dc:subject><rdf:Bag>'
        "<rdf:li>clip</rdf:li><rdf:li>fruit</rdf:li></rdf:Bag></dc:subject><dc:creator><cc:Agent>"
        '<dc:title>Somebody</dc:title></cc:Agent></dc:creator><cc:license rdf:resource="'
        'http://web.resource.org/cc/{}"/></cc:Work></rdf:RDF></metadata>'
    )
    names = (
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cc="http://cc" '
        'xmlns:dc="http://dc"'
    )
    return SVG.format(more=names, body=metadata.format(title, license) + shape)


CLIPART: Mapping[str, str] = {
    "food/fruit/apple_somebody_01.svg": clip("An Apple", body(40, 1)),
    "food/fruit/apple_somebody_02.svg": clip("Old Apple", body(41, 1)),
    "food/fruit/apple_copy.svg": clip("apple", body(40, 1)),
    "food/fruit/mango_01.svg": clip("Mango", body(42, 1)),
    "food/pear_secret.svg": clip("Pear", body(43, 1), license="GPL/2.0"),
    "food/fruit/cherry_01.svg": clip("Ciliegia rossa", body(44, 1)),
    "animals/cat_01.svg": clip("Cat", ""),
    "animals/dog_01.svg": clip("Dog", "<rect").replace("</svg>", ""),
    "animals/mouse.svg": clip("fox", body(45, 1)),
    "tools/hammer_01.svg": clip("hammer", body(46, 1)),
    "food/apple_tree.svg": clip("apple tree", body(47, 1)),
    "computer/icons/hammer.svg": clip("hammer", body(48, 1)),
}


def write_clipart(folder: Path, files: Mapping[str, str] = CLIPART) -> None:
    for name, text in files.items():
        path = folder / "usr/share/openclipart/svg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_stamps(folder: Path) -> None:
    """Two stamps with captions, and one without."""
    root = folder / "usr/share/tuxpaint/stamps"
    for number, (name, caption) in enumerate(
        (
            ("animals/mammals/fox", "A red fox.\nde.utf8=Ein Fuchs."),
            ("food/fruit/pear", "Pear!"),
            ("food/fruit/mango", ""),
        )
    ):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
        stamp.paste((200 - 40 * number, 30 * number, 90, 255), (3, 3, 20 + number, 15))
        stamp.save(path)
        if caption:
            path.with_suffix(".txt").write_text(caption)


def write_drawings(folder: Path) -> dict[str, Path]:
    """All packages of the set of drawings: the folder of each by its name."""
    write_wordnet(folder / "wordnet" / "usr/share/wordnet", SYNSETS)
    write_emojibase(folder / "emojibase" / "package")
    for style, name in enumerate(("noto", "fluent", "openmoji")):
        write_icons(folder / name / "package", style)
    write_clipart(folder / "clipart")
    write_stamps(folder / "stamps")
    return {
        "wordnet-base": folder / "wordnet",
        "emojibase-data": folder / "emojibase",
        "@iconify-json/noto": folder / "noto",
        "@iconify-json/fluent-emoji-flat": folder / "fluent",
        "@iconify-json/openmoji": folder / "openmoji",
        "openclipart-svg": folder / "clipart",
        "tuxpaint-stamps-default": folder / "stamps",
    }
