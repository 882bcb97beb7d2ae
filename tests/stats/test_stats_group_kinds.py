"""Expected fractions of all-wrong, mixed and all-right groups."""

from itertools import combinations

import pytest

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import group_kind_fracs


def test_every_small_case_equals_enumeration():
    for n in range(1, 7):
        for c in range(n + 1):
            for size in range(1, n + 1):
                draws = list(combinations([1] * c + [0] * (n - c), size))
                fracs = group_kind_fracs(n, c, size)
                assert fracs.all_wrong_frac == pytest.approx(sum(sum(draw) == 0 for draw in draws) / len(draws))
                assert fracs.all_right_frac == pytest.approx(sum(sum(draw) == size for draw in draws) / len(draws))
                mixed = sum(0 < sum(draw) < size for draw in draws) / len(draws)
                assert fracs.mixed_frac == pytest.approx(mixed, abs=1e-15)


def test_one_entry_per_prompt():
    fracs = group_kind_fracs([8, 8, 8], [0, 4, 8], 8)
    assert fracs.all_wrong_frac.tolist() == [1.0, 0.0, 0.0]
    assert fracs.mixed_frac.tolist() == [0.0, 1.0, 0.0]
    assert fracs.all_right_frac.tolist() == [0.0, 0.0, 1.0]


def test_impossible_kinds_are_plain_zeros():
    assert str(group_kind_fracs(4, 3, 3).all_wrong_frac) == "0.0"  # a product of 1/4, 0 and -1/2 would be -0.0


def test_messages_speak_of_groups():
    with pytest.raises(ConfigError, match=r"group_size = 8 needs at least 8 samples of every problem, problem 1 has 4"):
        group_kind_fracs([8, 4], [0, 0], 8)
    with pytest.raises(DataError, match=r"the problem has 9 correct of 8 samples"):
        group_kind_fracs(8, 9, 2)
