"""Tests first screens as plain values: their sentences, the data a browser gets, and the file of
*Take home*.
"""

from __future__ import annotations

import json
import re

import pytest

from robustviz.views import screen, theme
from robustviz.views.drawing import Plot, tile
from robustviz.views.screen import Control, Screen, wordy


def sample(**more) -> Screen:
    control = Control("ε in grey levels", ["0", "4", "8"], 1, "eps", unit="/255")
    picture = tile("data:,", 32, "a <moon>", below="moon & co", move="one")
    moves = {"one-below": ("text", ["moon", "moon", "cup </script>"])}
    return Screen(["All hold.", "A falls.", "Both fall."], picture, "alt", ["Why."], control, moves)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("B is more robust: it is right on 135 of 200 attacked images, A on 23.", 0),
        ("PGD-20 at ε = 8/255 leaves 12 of 200 right. CW-100 leaves 9 of 200.", 0),
        ("One 1, two 2, three 3 and four 4.", 1),
        ("Of 200, 3 to 4 are lost, 5 of 6 are kept, and 7 stay.", 1),
        (" ".join(["word"] * 20) + ".", 0),
        (" ".join(["word"] * 21) + ".", 1),
        (f"{' '.join(['word'] * 15)}. {' '.join(['Word'] * 15)}!", 0),
        ("**A Standard**: this image flips at ε = 2.1/255; 43 of 100.", 0),
        ("- one two\n- " + " ".join(["word"] * 21), 1),
        ("Accuracy 43.5%, then 41.2%, at last 12,5%.", 0),
    ],
)
def test_sentences_that_cannot_be_taken_in_at_a_glance_are_found(text, faults):
    assert len(wordy(text)) == faults


def test_the_browser_gets_everything_in_the_colours_of_the_theme():
    data = json.loads(json.dumps(sample().data("dark")))
    assert data["control"]["values"] == ["0", "4", "8"] and data["control"]["start"] == 1
    assert data["moves"]["one-below"] == ["text", ["moon", "moon", "cup </script>"]]
    for scheme in ("light", "dark"):
        ours, figures = screen.COLOURS[scheme], theme.COLOURS[f"robustviz_{scheme}"]
        assert {name: ours[name] for name in ("a", "b", "paper", "grid")} == {
            name: figures[name] for name in ("a", "b", "paper", "grid")
        }


def test_words_from_outside_are_no_markup():
    made = sample().picture
    assert "a &lt;moon&gt;" in made and "moon &amp; co" in made
    assert "&lt;b&gt;" in Plot(100, 50, (0, 1), (0, 1)).text(0, 0, "<b>").html()


def test_what_goes_home_is_one_file_that_asks_nobody():
    made = screen.page(sample(), "How <little>?").decode()
    assert made.count("</script>") == 1  # The data cannot close the script element.
    assert "How &lt;little&gt;?" in made
    assert not re.findall(r"(?:https?:)?//[a-z]", made.replace("http://www.w3.org", ""))


def test_a_chart_puts_values_where_its_axes_say():
    plot = Plot(200, 100, (0, 10), (0, 1), left=20, right=10, top=10)
    assert (plot.px(0), plot.px(10)) == (20, 190)
    assert (plot.py(1), plot.py(0)) == (10, 90)
    made = plot.dot(5, 0.5, "a", move="here").html("half")
    assert 'cx="105.0" cy="50.0"' in made and 'aria-label="half"' in made
    assert 'data-move="here-cx here-cy"' in made
