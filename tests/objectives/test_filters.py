"""Group filters: by labels, whole groups only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.objectives import FILTERS, KeepKinds

# One all-wrong group (id 1), one mixed (2), one all-right (3).
LABELS, GROUPS = [0, 0, 0, 1, 1, 1], [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "kept_groups"),
    [("keep_all", {1, 2, 3}), ("keep_mixed", {2}), ("drop_all_correct", {1, 2}), ("drop_all_wrong", {2, 3})],
)
def test_each_filter_keeps_its_kinds(name, kept_groups):
    kept = objectives.get("grpo", group_filter=name).keep(LABELS, GROUPS)
    assert kept.dtype == torch.bool
    assert kept.tolist() == [group in kept_groups for group in GROUPS]


@pytest.mark.parametrize(
    ("name", "kept_groups"),
    [("ngrpo", {1, 2}), ("dapo", {2}), ("grpo", {1, 2, 3}), ("psr", {1, 2, 3}), ("rloo", {1, 2, 3})],
)
def test_methods_keep_what_they_published(name, kept_groups):
    assert objectives.get(name).keep(LABELS, GROUPS).tolist() == [group in kept_groups for group in GROUPS]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40),
    name=st.sampled_from(sorted(FILTERS)),
)
def test_filters_never_tear_a_group(rows, name):
    groups, labels = [group for group, _ in rows], [label for _, label in rows]
    kept = objectives.get("ngrpo", group_filter=name).keep([0.5] * len(rows), groups, correct=labels).tolist()
    for group in set(groups):
        assert len({is_kept for row, is_kept in zip(groups, kept, strict=True) if row == group}) == 1


def test_filters_read_labels_not_rewards():
    # Right answers with a penalty, wrong answers with partial credit.
    rewards, labels = [0.4, 0.5, 0.0, -1.0], [False, False, True, True]
    kept = objectives.get("ngrpo").keep(rewards, [1, 1, 2, 2], correct=labels)
    assert kept.tolist() == [True, True, False, False]


def test_a_filter_that_needs_labels_refuses_other_rewards_by_name():
    with pytest.raises(ConfigError, match=r"^ngrpo needs to know which completions are correct"):
        objectives.get("ngrpo").keep([0.5, 1.0], [1, 1])
    assert objectives.get("grpo").keep([0.5, 1.0], [1, 1]).all()


def test_only_filters_that_tell_kinds_apart_need_labels():
    assert not KeepKinds().needs_labels
    assert objectives.get("ngrpo").needs_labels
    assert not objectives.get("ngrpo", group_filter="keep_all").needs_labels
    assert objectives.get("psr").needs_labels
    assert not objectives.get("grpo").needs_labels
