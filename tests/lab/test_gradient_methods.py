"""Which methods are compared, which are refused and why, and what their virtual sample does."""

import math
from dataclasses import replace

import pytest
import torch
from gradient_helpers import config_of, exact_policy, make_groups, naive_advantages

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.lab.gradient_methods import (
    DEFAULT_METHODS,
    REFUSED,
    advantages_by_group,
    make_methods,
    rows_by_group,
    virtual_share,
)


@pytest.fixture(scope="module")
def groups():
    return make_groups(exact_policy())


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("ppo", "ppo needs a critic"),
        ("grpo:kl_coef=0.1", "a reference model, which is the starting model itself"),
        ("pvpo", "changes what is sampled, or remembers earlier steps"),
        ("remax", "reads more of a completion than its rewards"),
        ("grpo:aggregation=token_mean", "aggregation is held equal"),
        ("grpo:clip_lo=0.1", "no parameter 'clip_lo'"),
        ("gropo", "Did you mean 'grpo'"),
        ("grpo:clip_low", "'clip_low' has no value"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name_with_the_reason(label, reason):
    with pytest.raises(ConfigError, match=reason):
        make_methods([label], config_of())


def test_a_loss_that_is_no_sum_over_completions_is_refused():
    stepwise = [name for name in objectives.names() if _complete(name) and objectives.get(name).needs_step_pass]
    assert stepwise
    for name in stepwise:
        with pytest.raises(ConfigError, match=f"{name} "):
            make_methods([name], config_of())


def _complete(name):
    return not any(parameter.is_required for parameter in objectives.describe(name).parameters)


def test_every_method_of_the_catalog_is_shown_or_refused_and_most_are_shown(groups):
    shown = []
    for name in filter(_complete, objectives.names()):
        try:
            (method,) = make_methods([name], config_of())
        except ConfigError:
            continue
        assert len(rows_by_group(method.objective, groups)) == len(groups)
        shown.append(name)
    assert set(DEFAULT_METHODS) < set(shown)
    assert len(shown) > len(objectives.names()) / 3


def test_twice_the_same_and_a_group_size_that_a_method_cannot_work_on():
    with pytest.raises(ConfigError, match="given twice"):
        make_methods(["grpo", "ngrpo", "grpo"], config_of())
    with pytest.raises(ConfigError, match=r"grpo.*groups of 1"):
        make_methods(["grpo"], config_of(group_size=1))
    make_methods(["ngrpo", "nsr"], config_of(group_size=1))


def test_every_refusal_has_somebody_to_refuse():
    built = [objectives.get(name) for name in objectives.names() if _complete(name)]
    built.append(objectives.get("grpo", kl_coef=0.1))
    for is_refused, reason in REFUSED:
        assert any(map(is_refused, built)), reason


def test_a_method_and_its_parameters():
    (method,) = make_methods(["ngrpo:num_virtual=2,clip_low=0.2"], config_of())
    assert (method.name, method.params) == ("ngrpo", {"num_virtual": 2, "clip_low": 0.2})
    assert method.objective.advantage.virtual.num_virtual == 2


@pytest.mark.parametrize("name", DEFAULT_METHODS)
def test_advantages_are_those_of_the_formula_and_zero_where_the_filter_drops_a_group(groups, name):
    (method,) = make_methods([name], config_of())
    for group, found in zip(groups, advantages_by_group(method.objective, groups), strict=True):
        expected = naive_advantages(name, [outcome.value for outcome in group.outcomes])
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_virtual_samples_share_by_hand():
    """Two groups of two: both wrong, and one right. NGRPO adds a third reward of 1.

    Both wrong: mean 1/3, std sqrt((1/9 + 1/9 + 4/9) / 2) = 1/sqrt(3), A = -1/sqrt(3); without: 0.
    One right: mean 2/3, std 1/sqrt(3), A = 1/sqrt(3) and -2/sqrt(3); without: mean 1/2, std 1/sqrt(2), A = +-1/sqrt(2).
    """
    groups = make_groups(exact_policy(), [[0, 0], [1, 0]])
    (method,) = make_methods(["ngrpo"], config_of(group_size=2))
    told = virtual_share(method.objective, groups)
    three, two = math.sqrt(1 / 3), math.sqrt(1 / 2)
    close = {"abs": 1e-5}
    assert told["with"]["correct"]["estimate"] == pytest.approx(three, **close)
    assert told["without"]["correct"]["estimate"] == pytest.approx(two, **close)
    assert told["with"]["wrong"]["estimate"] == pytest.approx(-4 * three / 3, **close)
    assert told["without"]["wrong"]["estimate"] == pytest.approx(-two / 3, **close)
    assert told["difference"]["wrong"]["estimate"] == pytest.approx((two - 4 * three) / 3, **close)
    # Squares with: 1/3 + 1/3 and 1/3 + 4/3; without: 0 and 1/2 + 1/2.
    assert told["rms_ratio"]["estimate"] == pytest.approx(math.sqrt(7 / 3), **close)
    # Of these two groups, those with another of the first come out at -sqrt(1/3), with another of the second lower.
    assert told["difference"]["wrong"]["low"] < told["difference"]["wrong"]["high"] < 0
    assert told["difference"]["wrong"]["established"] is True


def test_on_all_wrong_groups_all_of_it_is_the_virtual_samples_share():
    groups = make_groups(exact_policy(), [[0] * 8] * 3)
    (method,) = make_methods(["ngrpo"], config_of(group_size=8))
    told = virtual_share(method.objective, groups)
    assert told["with"]["correct"] is None
    assert told["with"]["wrong"]["estimate"] == pytest.approx(-1 / 3, abs=1e-5)
    assert told["without"]["wrong"]["estimate"] == 0.0
    assert told["without"]["wrong"]["established"] is False
    assert told["rms_ratio"] is None


def test_methods_without_a_virtual_sample_or_undefined_without_it_have_no_share(groups):
    (grpo,) = make_methods(["grpo"], config_of())
    assert virtual_share(grpo.objective, groups) is None
    (ngrpo,) = make_methods(["ngrpo"], config_of(group_size=1))
    assert virtual_share(ngrpo.objective, make_groups(exact_policy(), [[0], [1]])) is None


def test_a_method_of_the_users_own_that_tells_tokens_apart(groups):
    """Rows carry one advantage per token then; the share of the virtual sample is of their means."""
    (method,) = make_methods(["grpo"], config_of())

    def by_token(batch):
        width = int(batch.facts.completion_tokens.max())
        return torch.arange(1.0, width + 1).expand(len(batch.rewards), width)

    objective = replace(method.objective, advantage=by_token)
    rows = rows_by_group(objective, groups[:1])[0]
    lengths = [len(completion.token_ids) for completion in groups[0].completions]
    assert [row.advantage for row in rows] == pytest.approx([(length + 1) / 2 for length in lengths])
