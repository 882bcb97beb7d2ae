"""When TRL moves, this names what of it has moved; and a trainer says so before it trains anything."""

import inspect
from importlib.metadata import version

import pytest
from trl_helpers import GRPOConfig, GRPOTrainer, NGRPOTrainer, generation, trainer_of

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations import trl_seams
from ngrpo.integrations.trl_parts import carried
from ngrpo.integrations.trl_seams import check_classes, check_scored, check_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # TRL's and its dependencies' own


def test_the_installed_version_is_the_tested_one():
    assert version("trl").startswith(trl_seams.TESTED_WITH + ".")


def test_everything_held_on_to_is_there(tmp_path):
    check_classes()
    trainer = trainer_of(GRPOTrainer, tmp_path, num_iterations=2)
    check_trainer(trainer)
    trainer.model.train()
    output = generation(trainer, 2)
    check_scored(output)
    assert set(output) == {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
        "old_per_token_logps",
    }


def test_the_dictated_settings_are_fields_of_trls_configuration():
    names = {key for name in ("ngrpo", "gspo", "cispo") for key in carried(objectives.get(name, kl_coef=0.1)).settings}
    assert names <= set(trl_seams.SETTINGS)


def test_only_two_methods_are_overridden():
    own = {name for name, _ in inspect.getmembers(NGRPOTrainer, inspect.isfunction)}
    of_trl = {name for name, _ in inspect.getmembers(GRPOTrainer, inspect.isfunction)}
    changed = {name for name in own & of_trl if getattr(NGRPOTrainer, name) is not getattr(GRPOTrainer, name)}
    assert changed == {"__init__", "_calculate_rewards", "_generate_and_score_completions"}
    # Besides, only new names: nothing of TRL's is shadowed by accident.
    assert own - of_trl == {"_decided", "_put", "_rewrite_logged_advantages", "_record"}


def test_no_attribute_of_ours_is_one_of_trls(tmp_path):
    theirs = set(vars(trainer_of(GRPOTrainer, tmp_path / "theirs", num_iterations=2)))
    trainer = trainer_of(NGRPOTrainer, tmp_path / "ours", num_iterations=2)
    trainer.model.train()
    generation(trainer, 2)
    ours = {"objective", "_carried", "_label_column", "_recorder", "_heard"}
    assert set(vars(trainer)) - theirs == ours


def test_what_has_changed_is_named():
    class Renamed(GRPOTrainer):
        _calculate_rewards = None

        def _generate_and_score_completions(self, inputs, extra):
            return {}

        def _compute_loss(self, model, inputs):
            return inputs["advantages"], inputs["completion_mask"], inputs["num_items_in_batch"]

    with pytest.raises(ConfigError) as caught:
        check_classes(Renamed)
    told = str(caught.value)
    assert f"TRL {version('trl')} is not as ngrpo knows it" in told
    assert "GRPOTrainer._calculate_rewards is gone" in told
    assert "GRPOTrainer._generate_and_score_completions takes (self, inputs, extra), not (self, inputs)" in told
    assert "GRPOTrainer._compute_loss does not read 'tool_mask'" in told
    assert "GRPOTrainer._compute_loss does not read 'old_per_token_logps'" in told
    assert "does not read 'advantages'" not in told
    assert f'pip install "trl=={trl_seams.TESTED_WITH}.*"' in told


def test_a_setting_that_has_gone_is_named(monkeypatch):
    monkeypatch.setattr(trl_seams, "SETTINGS", (*trl_seams.SETTINGS, "epsilon_sideways"))
    with pytest.raises(ConfigError, match=r"GRPOConfig\.epsilon_sideways is gone"):
        check_classes(GRPOTrainer, GRPOConfig)


def test_a_missing_attribute_column_or_key_is_named(tmp_path):
    trainer = trainer_of(GRPOTrainer, tmp_path, num_iterations=2)
    del trainer._logs["advantages"]
    with pytest.raises(ConfigError, match=r"trainer\._logs has no column 'advantages'"):
        check_trainer(trainer)
    del trainer.reward_weights
    with pytest.raises(ConfigError, match="a trainer has no attribute reward_weights"):
        check_trainer(trainer)
    with pytest.raises(ConfigError, match="returns no 'num_items_in_batch'"):
        check_scored({"advantages": 0, "completion_mask": 0})


def test_nothing_of_ours_depends_on_how_completions_are_made():
    """vLLM, colocated or a server, tools, a rollout function: the two methods begin where they have ended."""
    from ngrpo.integrations import trl as ours

    source = inspect.getsource(ours)
    for name in ("vllm", "_generate(", "_generate_single_turn", "rollout_func"):
        assert name not in source.split('"""', 2)[2], name
