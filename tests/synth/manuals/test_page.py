import pytest

from triptych.synth.manuals.page import Body, Picture, read_page
from triptych.synth.manuals.windows import Limits, windows

MAIN = Body("role", "main")
PAGE = """
<html><head><title>Never read</title><style>p {}</style></head><body>
<nav><a href="x">Home</a><img src="logo.png"></nav>
<div class="body" role="main">
<h1>Segmentation<a class="headerlink" href="#s">#</a></h1>
<p>The <b>watershed</b> is
   an &amp; algorithm.<br/>A second line.</p>
<div class="sphx-glr-thumbcontainer"><img src="thumb.png" alt="small"></div>
<img src="../_images/a%20b.png?v=1" alt="Three
  objects" class="x">
<pre><span>def f():</span>
    return 1
</pre>
<table><tr><td>One</td><td>Two</td></tr></table>
<script>alert("<p>no</p>")</script>
<ul><li>First<li>Second</ul>
<p>Unclosed
</div>
<footer>Copyright</footer>
</body></html>
"""


def test_a_page_is_read_in_order() -> None:
    assert read_page(PAGE, MAIN) == [
        "Segmentation",
        "The watershed is an & algorithm.",
        "A second line.",
        Picture("../_images/a%20b.png", "Three objects"),
        "def f():\n    return 1",
        "One",
        "Two",
        "First",
        "Second",
        "Unclosed",
    ]


def test_without_an_element_the_whole_body_is_read() -> None:
    found = read_page(PAGE, Body())
    assert found[0] == "Segmentation", "navigation is silent everywhere"
    assert "Never read" not in found
    assert read_page(PAGE, Body("id", "content")) == []


@pytest.mark.parametrize(
    "html",
    ["", "<", "<body><p>a</b></p></i>", "<body></div></div><p>a", "<body><p>a</p></body></body>"],
)
def test_broken_markup_does_not_stop_the_reader(html: str) -> None:
    assert read_page(html, Body()) in ([], ["a"])


def test_windows_have_two_to_six_pictures_in_order() -> None:
    pictures = [Picture(f"{number}.png") for number in range(15)]
    parts = [part for number in range(15) for part in (f"text {number}", pictures[number])]
    found = list(windows(parts, Limits()))
    assert [sum(isinstance(part, Picture) for part in window) for window in found] == [6, 6, 3]
    assert [part for window in found for part in window] == parts


def test_a_window_ends_at_long_text_and_keeps_what_is_near() -> None:
    limits = Limits(between=100, around=30, whole=150)
    one, two, three, four = (Picture(f"{number}.png") for number in range(4))
    parts = ["far " * 30, "near", one, "short", two, "after", "x" * 120, "before", three, "y", four]
    assert list(windows(parts, limits)) == [
        ["near", one, "short", two, "after"],
        ["before", three, "y", four],
    ]
    assert list(windows(["a", one, "b" * 200, two], limits)) == [], "alone, a picture is no window"
    long = [one, "c" * 90, two, "d" * 90, three, "e", four]
    assert [part for part in next(windows(long, limits)) if isinstance(part, Picture)] == [one, two]


def test_no_text_is_in_two_windows() -> None:
    pictures = [Picture(f"{number}.png") for number in range(12)]
    parts = [part for number in range(12) for part in (pictures[number], f"paragraph {number}")]
    texts = [part for window in windows(parts, Limits()) for part in window]
    assert len(texts) == len(set(texts)) == 24
