"""The scale of weights: told apart by everyone, and the same in terminal and page."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.cli.display import weight_style
from agentsft.page.scale import SCALE, css_variables, step_of

# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB of a colour #rrggbb as seen with that vision."""
    srgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(
    ("theme", "page"), [("light", "#ffffff"), ("odd", "#ffffff"), ("dark", "#171b21"), ("dark_odd", "#171b21")]
)
def test_every_two_steps_are_told_apart_by_everyone(vision: str, theme: str, page: str) -> None:
    colours = [getattr(step, theme) or page for step in SCALE]
    for one, two in combinations(colours, 2):
        assert np.linalg.norm(lab(one, vision) - lab(two, vision)) > 9, (one, two)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=2).map(sorted))
def test_a_larger_weight_is_never_on_a_lower_step(weights: list[float]) -> None:
    assert step_of(weights[0]) <= step_of(weights[1])


def test_the_borders_of_the_steps_are_0_1_and_2() -> None:
    assert [step_of(w) for w in (0, 1e-6, 0.999, 1, 1.001, 2, 2.001, 5)] == [0, 1, 1, 2, 3, 3, 4, 4]


def test_terminal_and_page_share_their_colours() -> None:
    in_page = set(re.findall(r"light-dark\((#\w+),", css_variables()))
    in_terminal = {weight_style(w, odd).removeprefix("black on ") for w in (0.5, 1, 2, 3) for odd in (False, True)}
    assert in_terminal == in_page
    assert len(in_page) == 8
