"""Advantages of every method: hand values, invariants, exactness, refusals."""

import statistics
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo import objectives
from ngrpo.objectives import LeaveOneOut, Objective, Reinforce, RelativeAdvantage, token_mean

ONE_OF_FOUR = [1, 0, 0, 0]


def of_group(name, rewards, dtype=torch.float64, correct=None, **params):
    """Advantages of one group."""
    values = torch.tensor(rewards, dtype=dtype)
    return objectives.get(name, **params).advantages(values, [3] * len(rewards), correct=correct)


# --- hand values ------------------------------------------------------------------------------------------------------

# G = 8, c right, eps = 0. n = 8 + k values of which C = c + k are 1:
#   ddof 1: A+ = sqrt((n - C)(n - 1) / (n C)),  A- = -sqrt(C (n - 1) / (n (n - C)));   ddof 0: without (n - 1) / n.
# Columns: c, GRPO A+ and A-, NGRPO ddof 1 A+ and A-, NGRPO ddof 0 A+ and A-. None: no such completion.
CASES = [
    (0, None, 0.0, None, -0.3333, None, -0.3536),
    (1, 2.4749, -0.3536, 1.7638, -0.5040, 1.8708, -0.5345),
    (2, 1.6202, -0.5401, 1.3333, -0.6667, 1.4142, -0.7071),
    (3, 1.2076, -0.7246, 1.0541, -0.8433, 1.1180, -0.8944),
    (4, 0.9354, -0.9354, 0.8433, -1.0541, 0.8944, -1.1180),
    (5, 0.7246, -1.2076, 0.6667, -1.3333, 0.7071, -1.4142),
    (6, 0.5401, -1.6202, 0.5040, -1.7638, 0.5345, -1.8708),
    (7, 0.3536, -2.4749, 0.3333, -2.6667, 0.3536, -2.8284),
    (8, 0.0, None, 0.0, None, 0.0, None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}_right")
def test_eight_completions_give_the_papers_case_table(case):
    num_right = case[0]
    rewards = [1.0] * num_right + [0.0] * (8 - num_right)
    for column, (name, ddof) in {1: ("grpo", 1), 3: ("ngrpo", 1), 5: ("ngrpo", 0)}.items():
        advantages = of_group(name, rewards, ddof=ddof, eps=0.0).tolist()
        right, wrong = case[column], case[column + 1]
        expected = ([right] * num_right if right is not None else []) + (
            [wrong] * (8 - num_right) if num_right < 8 else []
        )
        assert advantages == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
    ("name", "params", "right", "wrong"),
    [
        # mean 1/4; deviations 3/4, -1/4; sum of squares 3/4; std sqrt(3/4/3) = 1/2 or sqrt(3/4/4) = .4330127
        ("grpo", {"ddof": 1}, 1.5, -0.5),
        ("grpo", {"ddof": 0}, 1.732051, -0.577350),
        # {1,0,0,0,1}: mean .4; deviations .6, -.4; sum of squares 1.2; std sqrt(.3) or sqrt(.24)
        ("ngrpo", {"ddof": 1}, 1.095445, -0.730297),
        ("ngrpo", {"ddof": 0}, 1.224745, -0.816497),
        # {1,0,0,0,1,1}: mean .5; sum of squares 1.5; std sqrt(.3) or .5
        ("ngrpo", {"num_virtual": 2, "ddof": 1}, 0.912871, -0.912871),
        ("ngrpo", {"num_virtual": 2, "ddof": 0}, 1.0, -1.0),
    ],
)
def test_one_right_of_four_scaled(name, params, right, wrong):
    assert of_group(name, ONE_OF_FOUR, eps=0.0, **params).tolist() == pytest.approx([right] + [wrong] * 3, abs=5.1e-7)


@pytest.mark.parametrize(
    ("name", "params", "right", "wrong"),
    [
        ("dr_grpo", {"budget_tokens": 10}, 0.75, -0.25),
        ("rloo", {}, 1.0, -1 / 3),  # the others of the right one: mean 0; of a wrong one: mean 1/3
        ("reinforce", {}, 1.0, 0.0),
        ("psr", {}, 1.0, 0.0),
        ("nsr", {}, 0.0, -1.0),
        ("w_reinforce", {}, 0.1, -1.0),
        ("w_reinforce", {"positive_weight": 0.5}, 0.5, -1.0),
    ],
)
def test_one_right_of_four_unscaled(name, params, right, wrong):
    assert of_group(name, ONE_OF_FOUR, **params).tolist() == pytest.approx([right] + [wrong] * 3, abs=1e-12)


def test_all_wrong_of_four():
    # {0,0,0,0,1}: mean .2, sum of squares .8; std sqrt(.2) or .4
    assert of_group("grpo", [0.0] * 4).tolist() == [0.0] * 4
    assert of_group("ngrpo", [0.0] * 4, eps=0.0).tolist() == pytest.approx([-0.447214] * 4, abs=5e-7)
    assert of_group("ngrpo", [0.0] * 4, eps=0.0, ddof=0).tolist() == pytest.approx([-0.5] * 4, abs=1e-12)


def test_more_virtual_rewards_push_an_all_wrong_group_harder():
    found = {
        ddof: [of_group("ngrpo", [0.0] * 8, num_virtual=k, ddof=ddof, eps=0.0)[0].item() for k in (1, 2, 4, 8)]
        for ddof in (1, 0)
    }
    assert found[1] == pytest.approx([-0.333, -0.474, -0.677, -0.968], abs=6e-4)
    assert found[0] == pytest.approx([-0.354, -0.500, -0.707, -1.000], abs=6e-4)


def test_ngrpo_is_defined_for_a_group_of_one():
    # {0,1}: mean .5, sum of squares .5; std sqrt(.5) or .5.   {1,1}: constant.
    assert of_group("ngrpo", [0.0], eps=0.0).item() == pytest.approx(-(0.5**0.5), abs=1e-12)
    assert of_group("ngrpo", [0.0], eps=0.0, ddof=0).item() == pytest.approx(-1.0, abs=1e-12)
    assert of_group("ngrpo", [1.0]).item() == 0.0


# --- constant groups are exactly zero ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_a_constant_group_is_exactly_zero_for_any_reward_and_size(name, dtype):
    objective = objectives.get(name, **({"budget_tokens": 1} if name == "dr_grpo" else {}))
    for step in range(1, 20):  # 0.05, 0.10, ..., 0.95: most of them are not exact in binary
        sizes = torch.arange(2, 65)
        groups = torch.repeat_interleave(sizes, sizes)
        rewards = torch.full((len(groups),), step * 0.05, dtype=torch.float64).to(dtype)
        assert not objective.advantages(rewards, groups).any()


def test_the_known_case_of_nine_tenths_seven_times():
    assert sum([0.9] * 7) / 7 != 0.9
    assert of_group("grpo", [0.9] * 7, eps=0.0).tolist() == [0.0] * 7
    assert of_group("grpo", [0.9] * 7, dtype=torch.float32).tolist() == [0.0] * 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("best", [0.3, 0.7, 1.0, 0.1])
def test_ngrpo_is_exactly_zero_at_the_virtual_reward_and_negative_below(dtype, best):
    for size in (1, 2, 7, 8, 30, 64):
        at_best = of_group("ngrpo", [best] * size, dtype=dtype, virtual_reward=best)
        assert not at_best.any()
        below = of_group("ngrpo", [best - 0.05] * size, dtype=dtype, virtual_reward=best)
        assert (below < 0).all()


def test_a_list_is_float32_and_so_is_the_virtual_reward_beside_it():
    assert objectives.get("ngrpo", virtual_reward=0.3).advantages([0.3] * 8, [0] * 8).tolist() == [0.0] * 8


@settings(deadline=None, max_examples=80)
@given(size=st.integers(1, 64), virtual_reward=st.floats(1e-3, 1e3))
def test_an_all_wrong_group_gets_the_closed_form_whatever_the_virtual_reward(size, virtual_reward):
    # {0 x G, v}: mean v/(G+1), std (ddof 1) v/sqrt(G+1): A = -1/sqrt(G+1). With eps it is smaller by eps/std.
    expected = -1 / (size + 1) ** 0.5
    exact = of_group("ngrpo", [0.0] * size, virtual_reward=virtual_reward, eps=0.0)
    assert exact.tolist() == pytest.approx([expected] * size, rel=1e-12)
    default = of_group("ngrpo", [0.0] * size, virtual_reward=virtual_reward)[0].item()
    smallest = expected / (1 + 1e-6 / (virtual_reward / (size + 1) ** 0.5))
    assert expected < default <= smallest * (1 - 1e-12)


# --- invariants -------------------------------------------------------------------------------------------------------

unit_rewards = st.floats(0, 1, allow_subnormal=False).map(lambda x: round(x, 4))
reward_groups = st.lists(st.lists(unit_rewards, min_size=2, max_size=8), min_size=1, max_size=5)
METHODS = [("grpo", {}), ("ngrpo", {}), ("dr_grpo", {"budget_tokens": 5}), ("rloo", {}), ("reinforce", {})]


@settings(deadline=None, max_examples=60)
@given(groups=reward_groups, ddof=st.integers(0, 1), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_without_virtual_rewards_ngrpo_is_grpo_bit_for_bit(groups, ddof, dtype):
    rewards = torch.tensor([reward for group in groups for reward in group], dtype=dtype)
    ids = [number for number, group in enumerate(groups) for _ in group]
    ngrpo = objectives.get("ngrpo", num_virtual=0, ddof=ddof).advantages(rewards, ids)
    assert torch.equal(ngrpo, objectives.get("grpo", ddof=ddof).advantages(rewards, ids))


@settings(deadline=None, max_examples=60)
@given(group=st.lists(unit_rewards, min_size=1, max_size=9), num_virtual=st.integers(1, 4), ddof=st.integers(0, 1))
def test_ngrpo_advantages_sum_to_minus_those_of_the_virtual_completions(group, num_virtual, ddof):
    augmented = group + [1.0] * num_virtual
    advantages = of_group("ngrpo", group, num_virtual=num_virtual, ddof=ddof, eps=0.0)
    std = statistics.stdev(augmented) if ddof else statistics.pstdev(augmented)
    of_virtual = (1.0 - statistics.fmean(augmented)) / std if std > 0 else 0.0
    assert advantages.sum().item() == pytest.approx(-num_virtual * of_virtual, abs=1e-6)
    assert advantages.sum().item() <= 1e-12


@settings(deadline=None, max_examples=60)
@given(
    group=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9),
    a=st.floats(0.1, 10),
    b=st.floats(-5, 5),
)
def test_ngrpo_does_not_see_the_scale_of_rewards(group, a, b):
    plain = of_group("ngrpo", group, eps=0.0)
    mapped = of_group("ngrpo", [a * reward + b for reward in group], virtual_reward=a * 1.0 + b, eps=0.0)
    assert mapped.tolist() == pytest.approx(plain.tolist(), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(groups=reward_groups, order=st.randoms(), method=st.sampled_from(METHODS))
def test_ragged_shuffled_groups_equal_one_group_at_a_time(groups, order, method):
    name, params = method
    objective = objectives.get(name, **params)
    rows = [
        (number * 17 - 3, place, reward) for number, group in enumerate(groups) for place, reward in enumerate(group)
    ]
    order.shuffle(rows)
    together = objective.advantages(
        torch.tensor([reward for *_, reward in rows], dtype=torch.float64), [group for group, *_ in rows]
    ).tolist()
    alone = [of_group(name, group, **params).tolist() for group in groups]
    assert together == pytest.approx([alone[(group + 3) // 17][place] for group, place, _ in rows], abs=1e-9)


@pytest.mark.parametrize(("name", "params"), METHODS)
def test_groups_do_not_influence_each_other(name, params):
    objective = objectives.get(name, **params)
    first = torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
    others = [torch.tensor([0.0, 0.0]).double(), torch.tensor([1.0, 0.7]).double()]
    results = [objective.advantages(torch.cat([first, other]), [1, 1, 1, 2, 2])[:3] for other in others]
    assert torch.equal(*results)


@settings(deadline=None, max_examples=40)
@given(groups=reward_groups)
def test_rloo_is_dr_grpo_times_g_over_g_minus_one(groups):
    for group in groups:
        size = len(group)
        dr_grpo = of_group("dr_grpo", group, budget_tokens=1)
        assert of_group("rloo", group).tolist() == pytest.approx((dr_grpo * size / (size - 1)).tolist(), abs=1e-12)
        others = [statistics.fmean(group[:place] + group[place + 1 :]) for place in range(size)]
        expected = [reward - other for reward, other in zip(group, others, strict=True)]
        assert of_group("rloo", group).tolist() == pytest.approx(expected, abs=1e-12)


def test_weighted_reinforce_holds_psr_and_nsr():
    psr, nsr = of_group("psr", ONE_OF_FOUR), of_group("nsr", ONE_OF_FOUR)
    assert torch.equal(of_group("w_reinforce", ONE_OF_FOUR, positive_weight=0.0), nsr)
    assert torch.equal(of_group("w_reinforce", ONE_OF_FOUR, positive_weight=1.0), psr + nsr)


def test_a_weight_of_zero_is_not_minus_zero():
    assert str(of_group("psr", [0.0]).item()) == "0.0"


def test_leave_one_out_of_virtual_rewards_too_shares_the_augmented_set():
    # {1, 0, v = 1}: the others of 1 have mean 1/2, the others of 0 have mean 1.
    objective = Objective(
        advantage=RelativeAdvantage(LeaveOneOut(), virtual=objectives.VirtualRewards(1, 1.0)),
        policy=Reinforce(),
        aggregation=token_mean,
    )
    assert objective.advantages([1, 0], [0, 0]).tolist() == [0.5, -1.0]


def test_64k_completions_do_not_loop_over_groups():
    rewards, groups = torch.randint(2, (65536,)).float(), torch.arange(65536) // 8
    objective = objectives.get("ngrpo")
    objective.advantages(rewards, groups)
    start = time.perf_counter()
    objective.advantages(rewards, groups)
    assert time.perf_counter() - start < 0.5  # about 5 ms; a row loop takes seconds
