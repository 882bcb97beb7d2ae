"""Which objectives TRL can carry, by which settings; and the table of it in the documentation."""

from dataclasses import replace
from pathlib import Path

import pytest

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations.trl_parts import (
    ENTROPY_BY_MICROBATCH,
    GIVEN_FACTS,
    MASKED,
    NOT_GIVEN,
    ROWS_STAY,
    SHARED_DIVISOR,
    carried,
)
from ngrpo.objectives import FACTS, Counts, HingeKL, ReferenceKL

PAGE = Path(__file__).parents[2] / "docs" / "integrations_trl.md"
REQUIRED = {
    "ucpo": {"abstention_weight": 0.5},
    "dppo": {"prompt_prune_prob": 0.5, "completion_prune_prob": 0.5, "low_advantage": 0.1},
}
COUNTS = Counts(num_tokens=70, num_sequences=8)


def method(name, **params):
    return objectives.get(name, **REQUIRED.get(name, {}), **params)


def line_of(name):
    """The line of the documentation's table."""
    try:
        found = carried(method(name))
    except ConfigError as error:
        part, why = str(error).removeprefix(f"TRL's GRPOTrainer cannot carry {name}: ").split(". ")[0].split(": ", 1)
        return f"| `{name}` | no | | `{part}`: {why} |"
    shown = ("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level")
    told = {key: found.settings.get(key) for key in shown}
    told["importance_sampling_level"] = {"token": None, "sequence": "sequence"}[told["importance_sampling_level"]]
    settings = ", ".join(f"`{key}={value}`" for key, value in told.items() if value is not None)
    verdict = "with a difference" if found.differences else "yes"
    return f"| `{name}` | {verdict} | {settings} | {'; '.join(found.differences)} |"


def test_the_documentations_table_is_what_the_code_does():
    section = PAGE.read_text(encoding="utf-8").split("## Every method")[1]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    assert table == [line_of(name) for name in objectives.names()]


@pytest.mark.parametrize("difference", [MASKED, SHARED_DIVISOR, ROWS_STAY, ENTROPY_BY_MICROBATCH])
def test_the_documentation_explains_every_difference(difference):
    assert f"**{difference[0].upper()}{difference[1:]}.**" in PAGE.read_text(encoding="utf-8")


def test_what_is_carried_and_what_is_not():
    def is_carried(name):
        try:
            carried(method(name))
        except ConfigError:
            return False
        return True

    refused = {name for name in objectives.names() if not is_carried(name)}
    assert refused == {"ppo", "remax", "spo", "pvpo", "nthr", "disco", "disco_b", "ucpo", "dppo", "igrpo"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ppo", "critic"),
        ("remax", "greedy_rewards"),
        ("spo", "rollout.prompts"),
        ("pvpo", "rollout.reference_values"),
        ("nthr", "token_similarity"),
        ("disco", "step_weight"),
        ("disco_b", "regulariser HingeKL"),
        ("ucpo", "is_abstained"),
        ("dppo", "rollout.pruning"),
        ("igrpo", "rollout.drafts"),
    ],
)
def test_a_refusal_names_the_part_and_the_way_out(name, part):
    with pytest.raises(ConfigError, match=rf"cannot carry {name}: {part}: .*`ngrpo train`"):
        carried(method(name))


def test_every_fact_is_either_given_or_has_a_reason():
    assert set(FACTS) == GIVEN_FACTS | NOT_GIVEN.keys()
    assert not GIVEN_FACTS & NOT_GIVEN.keys()


@pytest.mark.parametrize(
    ("name", "params", "settings", "divisor"),
    [
        ("ngrpo", {}, {"loss_type": "dapo", "epsilon": 0.16, "epsilon_high": 0.24, "delta": None}, 70),
        ("dapo", {}, {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "delta": 10.0}, 70),
        ("grpo", {}, {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": 0.2}, 70),
        ("dr_grpo", {"budget_tokens": 12}, {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.2}, 8 * 12),
        ("rloo", {}, {"loss_type": "cispo", "epsilon_high": 1.0}, 8),
        ("cispo", {}, {"loss_type": "cispo", "epsilon_high": 5.0}, 70),
        ("gspo", {}, {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4}, 70),
        ("grpo", {"kl_coef": 0.04}, {"beta": 0.04, "use_bias_correction_kl": False}, 70),
        ("grpo", {"entropy_coef": 0.01}, {"entropy_coef": 0.01, "beta": 0.0}, 70),
    ],
)
def test_which_part_goes_where(name, params, settings, divisor):
    found = carried(method(name, **params))
    assert settings.items() <= found.settings.items()
    assert found.divisor(COUNTS) == divisor
    assert found.has_ratio == (name != "rloo")


def test_parts_trl_has_no_place_for():
    grpo = method("grpo")

    def own_mean(loss, mask, counts):
        return loss.sum()

    for objective, part in [
        (replace(grpo, aggregation=own_mean), "aggregation own_mean"),
        (replace(grpo, policy=lambda inputs: inputs), "policy function"),
        (replace(grpo, regularisers=(HingeKL(1e-4, 1e3),)), "regulariser HingeKL"),
        (replace(grpo, regularisers=(ReferenceKL(0.1), ReferenceKL(0.2))), "regulariser ReferenceKL"),
        (method("rloo", aggregation="seq_mean_token_mean"), "aggregation seq_mean_token_mean"),
        (method("dapo", dual_clip=1.1), "dual_clip 1.1"),
        (method("reinforce_pp", reward_kl_coef=0.1), "ref_logprobs"),
    ]:
        with pytest.raises(ConfigError, match=part):
            carried(objective)


def test_differences_are_told():
    assert carried(method("grpo")).differences == ()
    assert carried(method("rloo")).differences == ()
    assert MASKED in carried(method("ngrpo")).differences
    assert carried(method("grpo", group_filter="keep_mixed")).differences == (MASKED, ROWS_STAY)
    assert carried(method("grpo", entropy_coef=0.1)).differences == (ENTROPY_BY_MICROBATCH,)
    masked = replace(method("rloo"), mask_truncated=True)
    assert carried(masked).differences == (SHARED_DIVISOR,)


def test_the_settings_are_those_of_trls_configuration():
    """The canary holds the same names against TRL's own, where TRL is installed."""
    names = {key for name in ("ngrpo", "gspo", "cispo") for key in carried(method(name)).settings}
    assert names == {
        "multi_objective_aggregation",
        "scale_rewards",
        "importance_sampling_level",
        "delta",
        "beta",
        "entropy_coef",
        "use_adaptive_entropy",
        "loss_type",
        "epsilon",
        "epsilon_high",
    }
