"""Our trainers on TRL against TRL's own trainer, against our own update, and in the ways a trainer is used."""

from dataclasses import replace

import pytest
import torch
from trl_helpers import (
    GROUP,
    Dataset,
    GRPOConfig,
    GRPOTrainer,
    NGRPOConfig,
    NGRPOTrainer,
    ObjectiveTrainer,
    config_of,
    fixed_rewards,
    generation,
    third,
    trainer_of,
    weights_of,
)

from helpers import PROMPT_TEXTS, small_model, small_policy, small_tokenizer
from ngrpo import objectives
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.objectives import RolloutFacts
from ngrpo.record import read_jsonl
from ngrpo.train.rows import group_rows
from ngrpo.train.step import update
from ngrpo.types import Completion, Group, Outcome, Prompt

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning", "ignore:.*dataloader.*"
)

AS_TRL = {"num_virtual": 0, "filter_all_correct": False, "advantage_eps": 1e-4, "epsilon": 0.2, "epsilon_high": None}
TWO_UPDATES = {"steps_per_generation": 2}

# All wrong, mixed, all right, mixed.
REWARDS = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [1.0, 1.0, 0.0, 1.0]


# Against TRL's own.


def assert_same_weights(ours, theirs):
    moved = 0.0
    start = dict(small_model().named_parameters())
    for name, value in weights_of(theirs).items():
        torch.testing.assert_close(weights_of(ours)[name], value, rtol=0, atol=1e-6)
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-3


def test_ngrpo_without_virtual_reward_and_filter_is_trls_grpo(tmp_path):
    theirs = trainer_of(GRPOTrainer, tmp_path / "theirs", **TWO_UPDATES)
    theirs.train()
    ours = trainer_of(NGRPOTrainer, tmp_path / "ours", **AS_TRL, **TWO_UPDATES)
    ours.train()
    assert_same_weights(ours, theirs)
    [*logged, _] = ours.state.log_history
    assert any(line["clip_ratio/region_mean"] > 0 for line in logged)
    different = trainer_of(NGRPOTrainer, tmp_path / "different", **{**AS_TRL, "num_virtual": 1}, **TWO_UPDATES)
    different.train()
    name = "model.layers.0.mlp.up_proj.weight"
    assert (weights_of(different)[name] - weights_of(theirs)[name]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("objective", "theirs"),
    [
        (objectives.get("grpo", eps=1e-4), {"loss_type": "grpo"}),
        (objectives.get("dr_grpo", budget_tokens=12), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
        (objectives.get("cispo", eps=1e-4, weight_max=1.1), {"loss_type": "cispo", "epsilon_high": 1.1}),
        (
            objectives.get("gspo", eps=1e-4),
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        ),
        (
            objectives.get("grpo", eps=1e-4, kl_coef=0.5),
            {"loss_type": "grpo", "beta": 0.5, "use_bias_correction_kl": False},
        ),
    ],
    ids=["grpo", "dr_grpo", "cispo", "gspo", "grpo with KL"],
)
def test_methods_that_trl_has_itself(tmp_path, model_folder, objective, theirs):
    """TRL's `dr_grpo` divides by max_completion_length, 12 here; ours by budget_tokens, the divisor of `dapo`."""
    shared = {"model": str(model_folder), **TWO_UPDATES}  # the reference model is loaded from there as well
    trl_trainer = trainer_of(GRPOTrainer, tmp_path / "theirs", **theirs, **shared)
    trl_trainer.train()
    ours = trainer_of(ObjectiveTrainer, tmp_path / "ours", options={"objective": objective}, **shared)
    ours.train()
    assert_same_weights(ours, trl_trainer)


# Against our own update.


def house_rows(objective, output, rewards):
    """The same generation as rows of our own trainer: advantages and filter by our own loop's functions."""
    old = output["old_per_token_logps"].double()
    groups = []
    for first in range(0, len(rewards), GROUP):
        rows = range(first, first + GROUP)
        prompt_ids = output["prompt_ids"][first][output["prompt_mask"][first].bool()].tolist()
        completions = []
        for row in rows:
            mask = output["completion_mask"][row].bool()
            ids = tuple(output["completion_ids"][row][mask].tolist())
            completions.append(Completion(ids, tuple(old[row][mask].tolist()), "", "eos"))
        outcomes = tuple(Outcome(rewards[row], rewards[row] == 1.0) for row in rows)
        groups.append(Group(Prompt("a", "", tuple(prompt_ids), ""), tuple(completions), outcomes))
    kept = objective.keep(rewards, [row // GROUP for row in range(len(rewards))]).view(-1, GROUP)[:, 0].tolist()
    kept_groups = [group for group, is_kept in zip(groups, kept, strict=True) if is_kept]
    facts = None
    if objective.needs_facts:
        completions = [completion for group in kept_groups for completion in group.completions]
        lengths = [len(completion.token_ids) for completion in completions]
        padded = [list(each.logprobs) + [0.0] * (max(lengths) - len(each.logprobs)) for each in completions]
        facts = RolloutFacts(completion_tokens=lengths, old_logprobs=torch.tensor(padded).double())
    return [row for rows in group_rows(objective, kept_groups, facts) for row in rows]


def nudged(model):
    """The model a step later, so that ratios are not 1 and some tokens are clipped."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=random, dtype=value.dtype), alpha=0.02)


CARRIED = [
    name
    for name in objectives.names()
    if name not in {"ppo", "remax", "spo", "pvpo", "nthr", "disco", "disco_b", "ucpo", "dppo", "igrpo"}
]


@pytest.mark.parametrize("name", CARRIED)
def test_the_gradient_is_that_of_our_own_update(tmp_path, name):
    """In float64, from TRL's own generation; four groups of which each method keeps its own, one optimiser step.

    With whole generations in one step every denominator of TRL's is the step's own, but one: with the mean of sequence
    means, rows that left stay in the number of rows (LENS; the difference that `trl_parts` states).
    """
    objective = objectives.get(name)
    trainer = trainer_of(
        ObjectiveTrainer,
        tmp_path,
        options={"objective": objective},
        dtype=torch.float64,
        per_device_train_batch_size=16,
        steps_per_generation=1,
        num_iterations=2,
    )
    assert trainer.model.dtype == torch.float64
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    fixed_rewards(trainer, REWARDS)
    taken = {}
    logprobs_of = trainer._get_per_token_logps_and_entropies

    def keep_old(*args, **kwargs):
        taken["old"], *rest = logprobs_of(*args, **kwargs)
        return taken["old"], *rest

    trainer._get_per_token_logps_and_entropies = keep_old
    output = generation(trainer, 4)
    trainer._get_per_token_logps_and_entropies = logprobs_of
    assert ("old_per_token_logps" in output) == trainer._carried.has_ratio
    rows = house_rows(objective, {**output, "old_per_token_logps": taken["old"]}, REWARDS)
    assert 0 < len(rows) <= 16

    nudged(trainer.model)
    loss = trainer.compute_loss(trainer.model, output)
    loss.backward()

    policy = small_policy(torch.float64)
    nudged(policy.model)
    stats = update(
        policy,
        torch.optim.SGD(policy.trainable_parameters(), lr=0.0),
        objective,
        rows,
        temperature=1.0,
        max_microbatch_tokens=1000,
        max_grad_norm=1e9,
    )
    counted = sum(row.counts for row in rows)
    scale = counted / 16 if objective.aggregation is objectives.seq_mean_token_mean else 1.0
    assert (scale < 1.0) == (name == "lens")
    assert loss.item() == pytest.approx(scale * stats.loss, rel=1e-5, abs=1e-6)
    theirs = dict(trainer.model.named_parameters())
    largest = max(value.grad.abs().max().item() for value in theirs.values())
    assert largest > 1e-6
    for parameter_name, value in policy.model.named_parameters():
        gap = (scale * value.grad - theirs[parameter_name].grad).abs().max().item()
        assert gap < 2e-6 * largest, parameter_name


@pytest.mark.parametrize("name", CARRIED)
def test_the_advantages_are_our_own_loops(tmp_path, name):
    objective = objectives.get(name)
    trainer = trainer_of(ObjectiveTrainer, tmp_path, options={"objective": objective}, steps_per_generation=2)
    trainer.model.train()
    fixed_rewards(trainer, REWARDS)
    kept = {}
    decided = trainer._decided
    trainer._decided = lambda batch, lengths, output: kept.setdefault(
        "decided", decided(batch, lengths, kept.setdefault("output", dict(output)))
    )
    output = generation(trainer, 4)
    rows = house_rows(objective, kept["output"], REWARDS)
    is_kept = kept["decided"].is_kept
    ours = output["advantages"][is_kept]
    for row, value in zip(rows, ours, strict=True):
        wanted = torch.tensor(row.token_advantages or [row.advantage])
        torch.testing.assert_close(value.reshape(-1)[: len(wanted)], wanted, rtol=1e-5, atol=1e-6)
    assert not output["advantages"][~is_kept].any()
    # What the completions table shows is what was trained on.
    shown = torch.tensor(list(trainer._logs["advantages"]))
    torch.testing.assert_close(shown, kept["decided"].per_completion)
    if ours.ndim == 1:
        assert shown.tolist() == output["advantages"].tolist()
    if "tool_mask" in output:
        assert not output["tool_mask"][~is_kept].any()
    tokens = (output["completion_mask"] * output.get("tool_mask", 1)).sum()
    if objective.aggregation in (objectives.token_mean, objectives.seq_mean_token_mean):
        assert output["num_items_in_batch"] == tokens


# Schedules and settings.


def test_the_default_schedule_lets_the_clip_bind(tmp_path):
    args = config_of(NGRPOTrainer, tmp_path)
    assert (args.steps_per_generation, args.generation_batch_size) == (4, 32)
    assert config_of(NGRPOTrainer, tmp_path, gradient_accumulation_steps=3).steps_per_generation == 12
    assert config_of(NGRPOTrainer, tmp_path, generation_batch_size=16).steps_per_generation == 2
    assert config_of(NGRPOTrainer, tmp_path, num_iterations=2).steps_per_generation == 1
    assert (args.epsilon, args.epsilon_high) == (0.16, 0.24)


def test_a_schedule_in_which_nothing_is_ever_clipped_is_told(tmp_path):
    with pytest.warns(
        UserWarning, match=r"ngrpo will never clip: steps_per_generation = 1 .* Set steps_per_gene.* to 4"
    ):
        trainer_of(NGRPOTrainer, tmp_path, steps_per_generation=1)
    trainer_of(ObjectiveTrainer, tmp_path, options={"objective": "rloo"}, steps_per_generation=1)  # nothing to clip
    with pytest.raises(ConfigError, match="lens reads old log-probabilities"):
        trainer_of(ObjectiveTrainer, tmp_path, options={"objective": "lens"}, steps_per_generation=1)


def test_the_objective_sets_trls_settings_on_a_copy(tmp_path):
    args = config_of(ObjectiveTrainer, tmp_path, **TWO_UPDATES)
    trainer = ObjectiveTrainer(
        small_model(),
        third,
        args,
        Dataset.from_list([{"prompt": text} for text in PROMPT_TEXTS]),  # by position, as GRPOTrainer takes it
        processing_class=small_tokenizer(),
        objective="dapo",
    )
    assert (trainer.epsilon_low, trainer.epsilon_high, trainer.loss_type) == (0.2, 0.28, "dapo")
    assert (trainer.args.delta, trainer.args.scale_rewards) == (10.0, "none")
    assert (args.epsilon_high, args.delta, args.scale_rewards) == (None, None, "group")


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"loss_type": "grpo"}, {"objective": "dapo"}, "loss_type = 'grpo' is not dapo's, which is 'dapo'"),
        ({"epsilon": 0.3}, {"objective": "grpo"}, r"epsilon = 0.3 is not grpo's, which is 0.2.*ngrpo objectives grpo"),
        ({"beta": 0.04}, {"objective": "grpo"}, "beta = 0.04"),
        ({"scale_rewards": "batch"}, {"objective": "grpo"}, "scale_rewards = 'batch'"),
        ({"correct_from": "absent"}, {"objective": "grpo"}, "correct_from is 'absent'; the reward functions are third"),
        ({"per_device_train_batch_size": 64}, {"objective": "grpo"}, "train_dataset has 6 rows, .* takes 32 prompts"),
        ({}, {"objective": "ppo"}, "cannot carry ppo: critic"),
        ({}, {"objective": "ngrp"}, "Did you mean 'ngrpo'"),
    ],
)
def test_settings_that_contradict_the_objective_are_refused(tmp_path, settings, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer_of(ObjectiveTrainer, tmp_path, options=options, **{**TWO_UPDATES, **settings})


def test_configurations_of_another_class_are_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="args is a GRPOConfig; NGRPOTrainer needs an NGRPOConfig"):
        NGRPOTrainer("no/such/model", third, GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False))
    with pytest.raises(ConfigError, match="needs an ObjectiveConfig"):
        ObjectiveTrainer(
            "no/such/model", third, GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), objective="grpo"
        )
    with pytest.raises(ConfigError, match="cannot carry spo"):
        ObjectiveTrainer("no/such/model", third, config_of(ObjectiveTrainer, tmp_path), objective="spo")


# Several reward functions, and rewards that are missing.


def polite(prompts, completions, **_):
    return [0.5] * len(completions)


def test_several_reward_functions_need_a_maximum_and_a_label(tmp_path):
    both = {"reward_funcs": [third, polite], **TWO_UPDATES}
    with pytest.raises(ConfigError, match=r"virtual_reward has to be given for 2 reward function\(s\)"):
        trainer_of(NGRPOTrainer, tmp_path, correct_from="third", **both)
    with pytest.raises(ConfigError, match="virtual_reward has to be given for 1 reward"):
        trainer_of(NGRPOTrainer, tmp_path, reward_weights=[0.5], **TWO_UPDATES)
    with pytest.raises(ConfigError, match="ngrpo has to know which completions are correct"):
        trainer_of(NGRPOTrainer, tmp_path, virtual_reward=1.5, **both)
    with pytest.raises(ConfigError, match=r"objectives.get\('ngrpo', virtual_reward=...\)"):
        trainer_of(ObjectiveTrainer, tmp_path, correct_from="third", options={"objective": "ngrpo"}, **both)
    with pytest.raises(ConfigError, match="record_groups has to know"):
        trainer_of(ObjectiveTrainer, tmp_path, record_groups=True, options={"objective": "grpo"}, **both)
    trainer = trainer_of(NGRPOTrainer, tmp_path, virtual_reward=1.5, correct_from="third", **both)
    trainer.train()
    assert 0 < trainer.state.log_history[0]["groups/mixed_frac"] <= 1
    unlabelled = trainer_of(ObjectiveTrainer, tmp_path / "b", options={"objective": "grpo"}, **both)
    unlabelled.train()
    assert "groups/mixed_frac" not in unlabelled.state.log_history[0]


def test_a_group_with_an_unscored_completion_stays_out_whole(tmp_path):
    trainer = trainer_of(NGRPOTrainer, tmp_path, **TWO_UPDATES)
    trainer.model.train()
    fixed_rewards(trainer, [0.0, None, 0.0, 0.0, 1.0, float("nan"), 0.0, 1.0, *REWARDS[:4], *REWARDS[12:]])
    output = generation(trainer, 4)
    assert not output["advantages"][:8].any()
    assert not output["tool_mask"][:8].any()
    assert output["advantages"][8:12].tolist() == pytest.approx([-0.4472] * 4, abs=1e-4)
    assert output["num_items_in_batch"] == output["completion_mask"][8:].sum()
    assert trainer._metrics["train"]["groups/failed_frac"] == [0.5]
    assert torch.isfinite(trainer_loss(trainer, output))


def test_tokens_of_tools_stay_out_of_loss_and_divisor(tmp_path):
    """TRL's own mask of tokens that are read and not trained on, under a filter that drops two of the groups."""
    trainer = trainer_of(NGRPOTrainer, tmp_path, **TWO_UPDATES)
    trainer.model.train()
    fixed_rewards(trainer, [*REWARDS[:8], *[1.0] * 8])
    kept = {}
    put = trainer._put

    def with_tools(output, decided, num_rows):
        of_tools = torch.arange(output["completion_mask"].shape[1]) == 0
        output["tool_mask"] = kept["tool_mask"] = output["completion_mask"] * (~of_tools).int()
        put(output, decided, num_rows)

    trainer._put = with_tools
    output = generation(trainer, 4)
    assert output["tool_mask"][:8].equal(kept["tool_mask"][:8])
    assert not output["tool_mask"][8:].any()
    assert output["num_items_in_batch"] == kept["tool_mask"][:8].sum()


def trainer_loss(trainer, output):
    trainer.current_gradient_accumulation_steps = 1
    return trainer.compute_loss(trainer.model, output)


def test_a_generation_of_which_nothing_is_kept_changes_nothing(tmp_path):
    def all_right(prompts, completions, **_):
        return [1.0] * len(completions)

    trainer = trainer_of(NGRPOTrainer, tmp_path, reward_funcs=all_right, entropy_coef=0.1, **TWO_UPDATES)
    trainer.train()
    assert [line["loss"] for line in trainer.state.log_history[:3]] == [0.0] * 3
    assert trainer.state.log_history[0]["groups/num_kept"] == 0
    start = dict(small_model().named_parameters())
    assert all(torch.equal(value, start[name]) for name, value in weights_of(trainer).items())


def test_groups_of_only_wrong_completions_teach(tmp_path):
    """The point of it: TRL's GRPO does not move on them."""

    def all_wrong(prompts, completions, **_):
        return [0.0] * len(completions)

    start = dict(small_model().named_parameters())
    moved = {}
    for trainer_class in (GRPOTrainer, NGRPOTrainer):
        trainer = trainer_of(trainer_class, tmp_path / trainer_class.__name__, reward_funcs=all_wrong, **TWO_UPDATES)
        trainer.train()
        moved[trainer_class] = max((value - start[name]).abs().max() for name, value in weights_of(trainer).items())
    assert moved[GRPOTrainer] == 0
    assert moved[NGRPOTrainer] > 1e-3


def test_truncated_completions_by_trls_own_flag(tmp_path):
    trainer = trainer_of(
        NGRPOTrainer, tmp_path, mask_truncated_completions=True, max_completion_length=4, **TWO_UPDATES
    )
    assert trainer.objective.mask_truncated
    trainer.model.train()
    fixed_rewards(trainer, REWARDS)
    output = generation(trainer, 4)
    is_truncated = trainer._heard[1][:, 1].bool()
    assert is_truncated.any()
    assert not output["advantages"][is_truncated].any()
    assert output["num_items_in_batch"] == (output["completion_mask"] * output["tool_mask"]).sum()


# The ways a trainer is used.


def test_evaluation_with_another_number_of_completions(tmp_path):
    rows = Dataset.from_list([{"prompt": text} for text in PROMPT_TEXTS])
    for count in (1, 2):
        trainer = trainer_of(
            NGRPOTrainer,
            tmp_path / str(count),
            options={"eval_dataset": rows},
            num_generations_eval=count,
            record_groups=True,
            **TWO_UPDATES,
        )
        trainer._logs["advantages"].append(7.0)  # of the generation before
        trainer._logs["prompt"].append("before")
        found = trainer.evaluate()
        assert len(trainer._logs["advantages"]) == len(trainer._logs["prompt"])
        assert 0 <= found["eval_groups/all_wrong_frac"] <= 1
        assert not (tmp_path / str(count) / "groups.jsonl").exists()
    grouped = trainer_of(
        ObjectiveTrainer,
        tmp_path / "grpo",
        options={"eval_dataset": rows, "objective": "grpo"},
        num_generations_eval=1,
        **TWO_UPDATES,
    )
    assert grouped.evaluate()["eval_loss"] == 0.0  # one completion has nothing to be compared with


def test_iterable_data_sets(tmp_path):
    rows = Dataset.from_list([{"prompt": text} for text in PROMPT_TEXTS]).to_iterable_dataset()
    trainer = trainer_of(NGRPOTrainer, tmp_path, dataset=rows, **TWO_UPDATES)
    trainer.train()
    assert trainer.state.global_step == 3


def test_records_and_going_on_from_a_checkpoint(tmp_path):
    rows = Dataset.from_list([{"prompt": text, "id": f"row {place}"} for place, text in enumerate(PROMPT_TEXTS)])
    settings = {"record_groups": True, "save_strategy": "steps", "save_steps": 3, "max_steps": 6, **TWO_UPDATES}
    trainer = trainer_of(NGRPOTrainer, tmp_path, dataset=rows, log_completions=True, **settings)
    trainer.train()
    lines = read_jsonl(tmp_path / "groups.jsonl")
    assert [line["step"] for line in lines] == [1] * 4 + [3] * 4 + [5] * 4
    assert {line["prompt"] for line in lines} <= {f"row {place}" for place in range(6)}
    for line in lines:
        assert len(line["rewards"]) == len(line["correct"]) == len(line["tokens"]) == GROUP
        assert line["kept"] == (not all(line["correct"]))
        assert len(line["advantages"]) == (GROUP if line["kept"] else 0)
        if line["kept"]:
            wanted = objectives.get("ngrpo").advantages(line["rewards"], [0] * GROUP)
            assert line["advantages"] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert read_jsonl(tmp_path / "samples.jsonl")

    with pytest.raises(RunFolderError, match=r"groups\.jsonl is there already"):
        trainer_of(NGRPOTrainer, tmp_path, dataset=rows, **settings).train()
    resumed = trainer_of(NGRPOTrainer, tmp_path, dataset=rows, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    # Step 5 is made again. The generation of step 3 was half used when it was saved; TRL makes a new one at step 4.
    again = read_jsonl(tmp_path / "groups.jsonl")
    assert again[:8] == lines[:8]
    assert [line["step"] for line in again[8:]] == [4] * 4 + [6] * 4


def test_the_completions_table_shows_what_was_trained_on(tmp_path):
    import pandas

    trainer = trainer_of(NGRPOTrainer, tmp_path, log_completions=True, max_steps=1, record_groups=True, **TWO_UPDATES)
    trainer.train()
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    for group, line in enumerate(read_jsonl(tmp_path / "groups.jsonl")):
        shown = table["advantage"][group * GROUP : (group + 1) * GROUP].tolist()
        assert shown == (line["advantages"] or [0.0] * GROUP)


def test_ngrpo_config_is_read_from_a_command_line():
    from trl import TrlParser

    [args] = TrlParser([NGRPOConfig]).parse_args_and_config(
        ["--use_cpu", "--bf16", "false", "--num_virtual", "2", "--virtual_reward", "1.5", "--epsilon", "0.1"]
    )
    assert (args.num_virtual, args.virtual_reward, args.epsilon, args.epsilon_high) == (2, 1.5, 0.1, 0.24)


def test_an_objective_of_ones_own(tmp_path):
    own = replace(objectives.get("grpo"), advantage=lambda batch: batch.rewards - 0.5, name="half")
    trainer = trainer_of(ObjectiveTrainer, tmp_path, options={"objective": own}, **TWO_UPDATES)
    trainer.model.train()
    fixed_rewards(trainer, REWARDS)
    assert generation(trainer, 4)["advantages"].tolist() == [reward - 0.5 for reward in REWARDS]
