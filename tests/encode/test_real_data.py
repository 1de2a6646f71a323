"""Every real conversation is proven, or refused for a reason that the page of the data names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import real_data

pytestmark = pytest.mark.real_data


def test_all_real_data_is_as_the_page_says(shared: Path) -> None:
    assert real_data.page(shared / "data") == real_data.PAGE.read_text(encoding="utf-8")
