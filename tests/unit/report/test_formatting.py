"""Numbers as people read them."""

from __future__ import annotations

import pytest

from fashion_dist.report.formatting import percent


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [
        (0.0834, 1, "8.3 %"),
        (0.0, 0, "0 %"),
        (1.0, 0, "100 %"),
        (0.003, 0, "0.3 %"),
        (0.0004, 0, "0.04 %"),
        (0.997, 0, "99.7 %"),
        (0.25, 0, "25 %"),
        (1e-9, 0, "0.000 %"),
    ],
)
def test_a_share_is_none_or_all_only_where_it_is(share: float, digits: int, said: str) -> None:
    assert percent(share, digits).replace("\N{NO-BREAK SPACE}", " ") == said
