"""Tests the settings in `.streamlit/config.toml`: nothing is sent to other computers, no traceback
is shown, and all text is readable.
"""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = tomllib.loads(
    (REPOSITORY / ".streamlit" / "config.toml").read_text(encoding="utf-8")
)
THEMES = ("light", "dark")


def luminance(colour: str) -> float:
    """Returns the relative luminance of `#rrggbb` by WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def mixed(front: str, back: str, share: float) -> str:
    """Returns the colour of `front` at opacity `share` on `back`."""
    values = [
        round(int(front[at : at + 2], 16) * share + int(back[at : at + 2], 16) * (1 - share))
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{value:02x}" for value in values)


def theme(name: str) -> dict[str, Any]:
    return dict(SETTINGS["theme"][name])


def backgrounds(name: str) -> list[str]:
    chosen = theme(name)
    return [
        chosen["backgroundColor"],
        chosen["secondaryBackgroundColor"],
        chosen["sidebar"]["backgroundColor"],
    ]


def test_every_setting_exists_in_this_streamlit() -> None:
    from streamlit import config

    def names(table: dict[str, Any], prefix: str = "") -> list[str]:
        return [
            name
            for key, value in table.items()
            for name in (
                names(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
            )
        ]

    known = config.get_config_options()
    assert not [name for name in names(SETTINGS) if name not in known]


def test_nothing_leaves_this_computer_and_no_traceback_is_shown() -> None:
    assert SETTINGS["browser"]["gatherUsageStats"] is False
    server = SETTINGS["server"]
    assert server["address"] == "127.0.0.1"
    assert server["showEmailPrompt"] is False
    assert server["enableXsrfProtection"] is True and server["enableCORS"] is True
    assert server["maxUploadSize"] == 200
    assert "headless" not in server and "enableAgentApi" not in server
    assert SETTINGS["client"]["showErrorDetails"] == "none"
    # A font given by an address would be downloaded from it.
    assert SETTINGS["theme"]["font"] == "sans-serif"


@pytest.mark.parametrize("name", THEMES)
def test_text_can_be_read(name: str) -> None:
    chosen = theme(name)
    for back in backgrounds(name):
        assert contrast(chosen["textColor"], back) >= 7
        assert contrast(chosen["linkColor"], back) >= 4.5
        for colour in ("blue", "orange", "green", "red"):
            assert contrast(chosen[f"{colour}TextColor"], back) >= 4.5, (colour, back)
    for back in (chosen["backgroundColor"], chosen["sidebar"]["backgroundColor"]):
        # Streamlit draws captions with this opacity.
        assert contrast(mixed(chosen["textColor"], back, 0.6), back) >= 4.5
    assert contrast(chosen["codeTextColor"], chosen["codeBackgroundColor"]) >= 7


@pytest.mark.parametrize("name", THEMES)
def test_the_primary_colour_carries_white_text_and_stands_out(name: str) -> None:
    chosen = theme(name)
    assert contrast(chosen["primaryColor"], "#ffffff") >= 4.5
    assert all(contrast(chosen["primaryColor"], back) >= 3 for back in backgrounds(name))
    assert contrast(chosen["borderColor"], chosen["backgroundColor"]) >= 3


@pytest.mark.parametrize("name", THEMES)
def test_marks_stand_out_and_differ(name: str) -> None:
    chosen = theme(name)
    marks = chosen["chartCategoricalColors"]
    assert len(marks) == 8
    for mark in marks:
        assert contrast(mark, chosen["backgroundColor"]) >= 3, mark
    for one, other in itertools.combinations(marks, 2):
        apart = (
            sum((int(one[at : at + 2], 16) - int(other[at : at + 2], 16)) ** 2 for at in (1, 3, 5))
            ** 0.5
        )
        assert apart >= 40, (one, other)


def test_the_two_networks_have_the_figures_colours() -> None:
    from robustviz.views.theme import COLOURS

    for name in THEMES:
        figures = COLOURS[f"robustviz_{name}"]
        assert [colour.lower() for colour in theme(name)["chartCategoricalColors"][:2]] == [
            figures["a"].lower(),
            figures["b"].lower(),
        ]
        assert theme(name)["backgroundColor"].lower() == figures["paper"].lower()


def test_scales_have_ten_colours_and_signed_ones_a_light_middle() -> None:
    signed = SETTINGS["theme"]["chartDivergingColors"]
    assert len(signed) == len(SETTINGS["theme"]["chartSequentialColors"]) == 10
    light = [luminance(colour) for colour in signed]
    assert max(light) == max(light[4:6])
    assert abs(light[4] - light[5]) < 0.1
    rising = [luminance(colour) for colour in SETTINGS["theme"]["chartSequentialColors"]]
    assert rising == sorted(rising)
