"""The translation of run files against verl's real configuration: Hydra composes it, verl's own checks pass it."""

import warnings
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")
pytest.importorskip("hydra", reason="the environment of verl's parity tests has Hydra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.utils.import_utils import load_extern_object
    from verl_helpers import launched

    import ngrpo.integrations.verl_sampler  # noqa: F401  (verl's imports warn; the test that names it is below)

from ngrpo.config import load_config, preset_names
from ngrpo.integrations.verl_config import LaunchFiles, Machines, hydra_arguments, translate
from ngrpo.integrations.verl_keys import KEYS

PAPER = [name for name in preset_names() if name.startswith("paper/")]


def section(node, key):
    """A value of a composed configuration by its dotted key."""
    return OmegaConf.select(node, key.removeprefix("+"), throw_on_missing=True)


@pytest.mark.parametrize("preset", PAPER)
def test_a_paper_preset_says_in_verl_what_it_says_here(preset, model_folder):
    config, got = launched(preset, f"model.path={model_folder}")
    params, actor, rollout = config.objective.params, got.actor_rollout_ref.actor, got.actor_rollout_ref.rollout
    assert actor.optim.lr == config.optim.lr == 1e-6
    assert list(actor.optim.betas) == [0.9, 0.999]
    assert actor.optim.weight_decay == 0.01
    assert actor.optim.override_optimizer_config == {"eps": 1e-8}
    assert actor.optim.clip_grad == config.update.max_grad_norm == 1.0
    assert actor.optim.lr_scheduler_type == "constant"
    assert got.data.train_batch_size == 1024
    assert rollout.n == 8
    assert actor.ppo_mini_batch_size == 256
    assert got.data.train_batch_size // actor.ppo_mini_batch_size == config.update.num_updates_per_step == 4
    assert actor.ppo_epochs == 1
    assert actor.use_dynamic_bsz
    assert actor.ppo_max_token_len_per_gpu == 36000
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (params["clip_low"], params["clip_high"])
    assert actor.clip_ratio_c == 1e9
    assert actor.loss_agg_mode == "token-mean"
    assert actor.entropy_coeff == params["entropy_coef"] == 0.001
    assert actor.use_kl_loss == (params["kl_coef"] != 0)
    assert actor.kl_loss_coef == params["kl_coef"]
    assert (got.data.max_prompt_length, got.data.max_response_length) == (1024, 3072)
    assert (rollout.prompt_length, rollout.response_length) == (1024, 3072)
    assert (rollout.temperature, rollout.top_p, rollout.top_k) == (1.0, 1.0, -1)
    assert (rollout.val_kwargs.n, rollout.val_kwargs.temperature, rollout.val_kwargs.do_sample) == (1, 0.0, False)
    kwargs = got.trainer.v1.sampler.sampler_kwargs
    assert kwargs.group_filter == params["group_filter"]
    assert kwargs.max_batches == config.refill.max_batches == 10
    assert got.algorithm.filter_groups.enable == (params["group_filter"] != "keep_all")
    assert got.trainer.total_training_steps == config.train.num_steps == 140
    assert (got.trainer.test_freq, got.trainer.save_freq, got.trainer.nnodes, got.trainer.n_gpus_per_node) == (
        7,
        7,
        1,
        8,
    )
    assert got.actor_rollout_ref.model.path == str(model_folder)
    assert got.actor_rollout_ref.model.enable_gradient_checkpointing


@pytest.mark.parametrize("preset", PAPER)
def test_verls_own_checks_pass_a_paper_preset(preset, model_folder, capsys):
    _, got = launched(preset, f"model.path={model_folder}")
    validate_config(got, need_reference_policy(got), need_critic(got))
    for part in ("actor", "rollout", "model"):
        omega_conf_to_dataclass(got.actor_rollout_ref[part])
    assert "passed successfully" in capsys.readouterr().out
    assert need_critic(got) == (preset == "paper/ppo")
    assert need_reference_policy(got) == (preset in ("paper/grpo", "paper/ppo"))


def test_each_method_of_the_paper_has_its_estimator_and_parameters(model_folder):
    where = f"model.path={model_folder}"
    algorithms = {preset: launched(preset, where)[1].algorithm for preset in PAPER}
    estimators = {preset: algorithm.adv_estimator for preset, algorithm in algorithms.items()}
    assert estimators == {
        "paper/ngrpo": "ngrpo", "paper/grpo": "ngrpo_grpo", "paper/dapo": "dapo", "paper/psr": "psr",
        "paper/nsr": "nsr", "paper/w_reinforce": "w_reinforce", "paper/ppo": "gae",
    }  # fmt: skip
    assert algorithms["paper/ngrpo"].ngrpo == {"num_virtual": 1, "virtual_reward": 1.0, "ddof": 1, "eps": 1e-6}
    assert algorithms["paper/w_reinforce"].ngrpo == {"positive_weight": 0.1}
    assert algorithms["paper/dapo"].ngrpo.overlong_max_tokens == 3072
    ppo = algorithms["paper/ppo"]
    assert (ppo.gamma, ppo.lam, ppo.use_kl_in_reward, ppo.kl_penalty) == (1.0, 1.0, True, "kl")
    assert (ppo.kl_ctrl.type, ppo.kl_ctrl.kl_coef) == ("fixed", 0.001)
    critic = launched("paper/ppo", where)[1].critic
    assert (critic.optim.lr, critic.cliprange_value, critic.ppo_mini_batch_size) == (1e-5, 0.5, 256)
    assert critic.model.path == str(model_folder)


@pytest.mark.parametrize("preset", ["gpu_1x", *PAPER])
def test_every_key_that_is_called_translated_is_there(preset):
    config = load_config(preset)
    made = {key.removeprefix("+") for key in translate(config, LaunchFiles(Path("/runs/x")), Machines())}
    optional = {"critic": config.critic, "model.lora": config.model.lora, "validation": config.validation}
    for key, fate in KEYS.items():
        is_there = all(value is not None for name, value in optional.items() if key.startswith(f"{name}."))
        missing = [each for each in fate.keys if is_there and each.removeprefix("+") not in made]
        assert not missing, f"{key}: {missing}"


CHANGED = [
    ("optim.lr=3e-6", "actor_rollout_ref.actor.optim.lr", 3e-6),
    ("optim.betas=[0.8,0.95]", "actor_rollout_ref.actor.optim.betas", [0.8, 0.95]),
    ("optim.eps=1e-7", "actor_rollout_ref.actor.optim.override_optimizer_config.eps", 1e-7),
    ("optim.schedule=cosine", "actor_rollout_ref.actor.optim.lr_scheduler_type", "cosine"),
    ("optim.min_lr_frac=0.25", "actor_rollout_ref.actor.optim.min_lr_ratio", 0.25),
    ("optim.warmup_steps=9", "actor_rollout_ref.actor.optim.lr_warmup_steps", 9),
    ("model.precision=float32", "actor_rollout_ref.rollout.dtype", "float32"),
    ("model.lora.rank=8", "actor_rollout_ref.model.lora_rank", 8),
    ("model.lora.target_modules=['q_proj']", "actor_rollout_ref.model.target_modules", ["q_proj"]),
    ("update.max_importance_weight=2.5", "algorithm.rollout_correction.rollout_is_threshold", 2.5),
    ("update.num_updates_per_step=8", "actor_rollout_ref.actor.ppo_mini_batch_size", 128),
    ("rollout.max_rows=99", "actor_rollout_ref.rollout.max_num_seqs", 99),
    ("run.seed=7", "data.seed", 7),
    ("run.name=\"it's a b=c, {d}\"", "trainer.experiment_name", "it's a b=c, {d}"),
    ("record.wandb=offline", "ray_kwargs.ray_init.runtime_env.env_vars.WANDB_MODE", "offline"),
    ("record.tensorboard=false", "trainer.logger", ["console", "wandb"]),
    ("objective.params.num_virtual=3", "algorithm.ngrpo.num_virtual", 3),
    ("objective.params.aggregation=seq_mean_token_sum", "actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum"),
    ("objective.params.group_filter=keep_all", "algorithm.filter_groups.enable", False),
    ("validation.num_samples=4", "actor_rollout_ref.rollout.val_kwargs.n", 4),
    ("checkpoint.keep_last=5", "trainer.max_actor_ckpt_to_keep", 5),
    ("reward.num_workers=3", "reward.num_workers", 3),
]  # fmt: skip


def test_settings_that_are_changed_arrive():
    got = launched("paper/ngrpo", *(override for override, _, _ in CHANGED))[1]
    for override, key, expected in CHANGED:
        value = section(got, key)
        assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == expected, override


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("cispo", {"policy_loss.loss_mode": "cispo", "clip_ratio_low": 1.0, "clip_ratio_high": 4.0}),
        ("gspo", {"policy_loss.loss_mode": "gspo", "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}),
        ("rloo", {"policy_loss.loss_mode": "gpg", "loss_agg_mode": "seq-mean-token-sum"}),
        ("dr_grpo", {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": 3000}),
        ("mapo", {"clip_ratio_c": 3.0}),
    ],
)
def test_each_kind_of_loss_finds_verls(objective, expected):
    actor = launched("gpu_1x", f"objective.name={objective}")[1].actor_rollout_ref.actor
    assert {key: section(actor, key) for key in expected} == expected


def test_machines_and_a_cluster():
    got = launched("paper/ngrpo", machines=Machines(2, 4, "ray://head:10001"))[1]
    assert (got.trainer.nnodes, got.trainer.n_gpus_per_node) == (2, 4)
    assert got.ray_kwargs.ray_init.address == "ray://head:10001"
    merged = OmegaConf.merge(get_ppo_ray_runtime_env(got), got.ray_kwargs.ray_init.runtime_env)  # as main_ppo does
    assert merged.env_vars.TENSORBOARD_DIR.endswith("runs/paper_ngrpo/tensorboard")
    assert merged.env_vars.VLLM_LOGGING_LEVEL == "WARN"


def test_verl_finds_our_reward_sampler_and_plug_in_where_they_are_said_to_be(tmp_path):
    got = launched("paper/ngrpo")[1]
    sampler = got.trainer.v1.sampler.custom_sampler
    assert load_extern_object(sampler.path, sampler.name).__name__ == "GroupSampler"
    assert got.actor_rollout_ref.model.external_lib == "ngrpo.integrations.verl"
    function = get_custom_reward_fn(got)
    assert function.func.__name__ == "_call_with_kwargs"
    assert function.args[0].__module__ == "ngrpo.integrations.verl_reward"
    assert function.args[1]["settings"].endswith("runs/paper_ngrpo/reward.json")


@pytest.mark.parametrize(
    "text", ["plain", "a b", "it's", "a\\", "a\\'b", "{x}", "[1,2]", "1e-3", "null", "a=b,c:d", "", "é"]
)
def test_hydra_reads_back_every_text(text):
    argument = hydra_arguments({"key": text})[0]
    assert OverridesParser.create().parse_override(argument).value() == text
