"""The catalog: methods as published, parameters checked, registration."""

from dataclasses import replace

import pytest
import torch

from ngrpo import objectives
from ngrpo.errors import ConfigError, UserError
from ngrpo.objectives import (
    ClippedSurrogate,
    EntropyBonus,
    ReferenceKL,
    Reinforce,
    registry,
    seq_mean_token_mean,
    seq_mean_token_sum,
    token_mean,
)

BUILT_IN = ["ngrpo", "grpo", "dr_grpo", "dapo", "psr", "nsr", "w_reinforce", "rloo", "reinforce"]


@pytest.fixture
def scratch_catalog(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_names_lists_every_method():
    assert objectives.names()[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize(
    ("name", "policy", "aggregation"),
    [
        ("ngrpo", ClippedSurrogate(0.16, 0.24), token_mean),
        ("grpo", ClippedSurrogate(0.2, 0.2), seq_mean_token_mean),
        ("dapo", ClippedSurrogate(0.2, 0.28, dual_clip=10.0), token_mean),
        ("psr", ClippedSurrogate(0.2, 0.2), token_mean),
        ("nsr", ClippedSurrogate(0.2, 0.2), token_mean),
        ("w_reinforce", ClippedSurrogate(0.2, 0.2), token_mean),
        ("rloo", Reinforce(), seq_mean_token_sum),
        ("reinforce", Reinforce(), seq_mean_token_sum),
    ],
)
def test_methods_are_as_published(name, policy, aggregation):
    objective = objectives.get(name)
    assert objective.name == name
    assert objective.policy == policy
    assert objective.aggregation is aggregation
    assert objective.regularisers == ()


def test_dr_grpo_divides_by_its_budget():
    # A = 3/4, -1/4 x 3 at ratio 1, one token each: -(3/4 - 3/4)/...; take only the right one: (1/1) (1/10) (-.75)
    objective = objectives.get("dr_grpo", budget_tokens=10)
    advantages = objective.advantages([1, 0, 0, 0], [0] * 4)[:1]
    terms = objective.token_terms(torch.zeros(1, 1), torch.zeros(1, 1), advantages, torch.ones(1, 1))
    assert objective.reduce(terms, torch.ones(1, 1)).item() == pytest.approx(-0.075)


def test_ngrpo_without_its_two_changes_is_grpo_on_a_token_mean():
    ablated = objectives.get("ngrpo", num_virtual=0, clip_low=0.2, clip_high=0.2, group_filter="keep_all")
    grpo = objectives.get("grpo", aggregation="token_mean")
    generator = torch.Generator().manual_seed(0)
    rewards, groups = torch.tensor([0, 1, 1, 0, 0, 0]).float(), [0, 0, 0, 1, 1, 1]
    current, old = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    mask = torch.rand(6, 4, generator=generator) < 0.7
    losses = [
        each.reduce(each.token_terms(current, old, each.advantages(rewards, groups), mask), mask)
        for each in (ablated, grpo)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_takes_the_general_parameters(name):
    objective = objectives.get(
        name,
        kl_coef=0.1,
        entropy_coef=0.01,
        aggregation="seq_mean_token_mean",
        group_filter="drop_all_wrong",
    )
    assert objective.regularisers == (ReferenceKL(0.1), EntropyBonus(0.01))
    assert objective.aggregation is seq_mean_token_mean
    assert objective.keep([0, 1], [1, 2]).tolist() == [False, True]
    assert (objective.needs_reference, objective.needs_entropy) == (True, True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_is_described(name):
    description = objectives.describe(name)
    assert description.summary.endswith(".")
    assert "arXiv 2" in description.source or name == "reinforce"
    assert [parameter.name for parameter in description.parameters][-4:] == [
        "kl_coef",
        "entropy_coef",
        "aggregation",
        "group_filter",
    ]
    assert str(description).startswith(f"{name}: ")
    assert "\n" not in str(description)
    assert description.parts


def test_a_description_tells_types_and_defaults():
    text = str(objectives.describe("ngrpo"))
    assert "(arXiv 2509.18851)" in text
    assert "num_virtual: int = 1; virtual_reward: float = 1.0; clip_low: float = 0.16" in text
    assert "budget_tokens: int = 3000;" in str(objectives.describe("dr_grpo"))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look_up", [objectives.get, objectives.describe])
def test_an_unknown_method_lists_the_names_and_the_nearest(look_up):
    with pytest.raises(
        ConfigError, match=r"no objective is named 'ngrop'\. Did you mean 'ngrpo'\? There are: ngrpo, grpo,"
    ):
        look_up("ngrop")


def test_an_unknown_parameter_lists_the_valid_ones_and_the_nearest():
    with pytest.raises(
        ConfigError, match=r"ngrpo has no parameter 'num_virtul'\. Did you mean 'num_virtual'\? There are: num_v"
    ):
        objectives.get("ngrpo", num_virtul=2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"clip_low": "0.2"}, r"clip_low of ngrpo must be float, got '0\.2' \(str\)"),
        ({"num_virtual": 1.0}, r"num_virtual of ngrpo must be int, got 1\.0 \(float\)"),
        ({"num_virtual": True}, r"num_virtual of ngrpo must be int, got True \(bool\)"),
        ({"clip_high": None}, r"clip_high of ngrpo must be float, got None"),
        ({"virtual_reward": float("nan")}, r"virtual_reward of ngrpo must be finite, got nan"),
        ({"kl_coef": "a"}, r"kl_coef of ngrpo must be float"),
        ({"aggregation": 3}, r"aggregation of ngrpo must be str \| None, got 3"),
        ({"aggregation": "tokenmean"}, r"aggregation 'tokenmean' is unknown\. Did you mean 'token_mean'"),
        ({"group_filter": "mixed"}, r"group_filter 'mixed' is unknown\. Did you mean 'keep_mixed'"),
        ({"num_virtual": -1}, r"num_virtual must be 0 or more, got -1"),
        ({"clip_low": -0.1}, r"clip_low and clip_high must be 0 or more"),
        ({"kl_coef": -0.1}, r"kl_coef must be 0 or more"),
    ],
)
def test_wrong_parameters_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        objectives.get("ngrpo", **params)


def test_an_int_will_do_for_a_float_and_none_where_it_is_allowed():
    assert objectives.get("ngrpo", virtual_reward=2).advantages([2], [0]).item() == 0.0
    assert objectives.get("dapo", dual_clip=None).policy.dual_clip is None
    with pytest.raises(ConfigError, match=r"mask_truncated of dapo must be bool, got 1 \(int\)"):
        objectives.get("dapo", mask_truncated=1)


@pytest.mark.usefixtures("scratch_catalog")
def test_a_required_parameter_is_asked_for():
    @objectives.register("fixed")
    def fixed(*, width: int):
        return objectives.get("grpo")

    assert "width: int;" in str(objectives.describe("fixed"))
    assert objectives.describe("fixed").parts == {}
    with pytest.raises(ConfigError, match=r"fixed needs a value for width: int.*get\('fixed', width="):
        objectives.get("fixed")


def test_a_budget_of_no_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"budget_tokens must be 1 or more, got 0"):
        objectives.get("dr_grpo", budget_tokens=0)


def test_refusals_are_the_users_to_mend_and_value_errors():
    with pytest.raises(UserError) as caught:
        objectives.get("ngrop")
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


# --- one's own --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scratch_catalog")
def test_a_method_of_ones_own_is_a_function_and_a_line():
    @objectives.register("gentle", source="my notebook")
    def gentle(*, pull: float = 0.5):
        """GRPO's advantage, made smaller.

        More text.
        """
        return replace(objectives.get("grpo"), advantage=lambda batch: (batch.rewards - 0.5) * pull)

    assert objectives.names()[-1] == "gentle"
    assert objectives.get("gentle", pull=0.1).advantages([0, 1], [0, 0]).tolist() == pytest.approx([-0.05, 0.05])
    assert objectives.get("gentle").name == "gentle"
    description = objectives.describe("gentle")
    assert (description.summary, description.source) == ("GRPO's advantage, made smaller.", "my notebook")
    with pytest.raises(ConfigError, match="gentle has no parameter 'pul'"):
        objectives.get("gentle", pul=1.0)


@pytest.mark.usefixtures("scratch_catalog")
def test_general_parameters_keep_a_methods_own_regularisers():
    objectives.register("leashed", lambda: replace(objectives.get("grpo"), regularisers=(ReferenceKL(0.04),)))
    assert objectives.get("leashed").regularisers == (ReferenceKL(0.04),)
    assert objectives.get("leashed", entropy_coef=0.1).regularisers == (ReferenceKL(0.04), EntropyBonus(0.1))


@pytest.mark.usefixtures("scratch_catalog")
def test_register_is_a_plain_function_too():
    objectives.register("also_grpo", lambda: objectives.get("grpo"))
    assert objectives.get("also_grpo").name == "also_grpo"


@pytest.mark.usefixtures("scratch_catalog")
def test_registration_refuses_what_would_confuse():
    with pytest.raises(ConfigError, match=r"an objective named 'ngrpo' exists already"):
        objectives.register("ngrpo", lambda: objectives.get("grpo"))
    with pytest.raises(ConfigError, match=r"objective 'mine': every method takes kl_coef already"):
        objectives.register("mine", lambda *, kl_coef: objectives.get("grpo"))
    with pytest.raises(ConfigError, match=r"objective 'mine': \*\*params cannot be checked"):
        objectives.register("mine", lambda **params: objectives.get("grpo"))
    objectives.register("mine", lambda: "grpo")
    with pytest.raises(
        ConfigError, match=r"mine was registered with a function that returned 'grpo', not an Objective"
    ):
        objectives.get("mine")
