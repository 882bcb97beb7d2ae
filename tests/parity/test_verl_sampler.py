"""The group sampler in verl's real replay buffer and its real sampling loop; the queue alone is played."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")
pytest.importorskip("transfer_queue", reason="the environment of verl's parity tests has TransferQueue")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from verl.trainer.ppo.v1 import replay_buffer, trainer_base

    from ngrpo.integrations import verl_sampler
    from ngrpo.integrations.verl_sampler import GroupSampler

from ngrpo.errors import ConfigError


class Queue:
    """TransferQueue, in this process: groups come finished, in the order they are asked for."""

    def __init__(self, outcomes):
        self.outcomes = list(outcomes)  # labels of each group to come
        self.tags, self.values, self.asked = {}, {}, []

    def submit(self, num_prompts):
        self.asked.append(num_prompts)
        for _ in range(num_prompts):
            uid, labels = f"u{len(self.outcomes)}", self.outcomes.pop(0)
            self.tags[uid] = {"is_prompt": True, "status": "finished", "global_steps": 1}
            for session, label in enumerate(labels):
                self.tags[f"{uid}_{session}_0"] = {"response_len": 3}
                info = {"score": float(label), "acc": float(label), "prompt_id": f"p-{uid}"}
                self.values[f"{uid}_{session}_0"] = {
                    "extra_fields": SimpleNamespace(data={"reward_extra_info": info}),
                    "rm_scores": torch.tensor([0.0, float(label)]),
                }
        return num_prompts

    def kv_list(self, partition_id=None):
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {name: [self.values[key][name] for key in keys] for name in select_fields}

    def kv_clear(self, partition_id, keys):
        for key in keys:
            self.tags.pop(key, None)


WRONG, MIXED, RIGHT = [0, 0], [1, 0], [1, 1]


@pytest.fixture
def sampled(monkeypatch):
    """Samples one step of verl's from a queue of groups: the queue, the batch, the metrics."""
    monkeypatch.setattr(trainer_base, "compute_advantage_for_multi_trajectories",
                        trainer_base.compute_advantage_for_multi_trajectories)  # fmt: skip

    def sample(outcomes, batch_size=3, *, stock=False, **settings):
        queue = Queue(outcomes)
        monkeypatch.setattr(replay_buffer, "tq", queue)
        monkeypatch.setattr(verl_sampler, "tq", queue)
        common = {
            "trainer_mode": "sync", "trainer_config": {}, "max_off_policy_threshold": 8,
            "max_off_policy_strategy": "drop", "poll_interval": 0.0, "refill_fn": queue.submit,
        }  # fmt: skip
        if stock:
            buffer = replay_buffer.ReplayBuffer(
                **common,
                sampler_kwargs={},
                filter_groups_metric="reward",
                train_batch_size=batch_size,
                gen_batch_size=1,
            )
        else:
            buffer = GroupSampler(**common, sampler_kwargs={"num_prompts_per_step": batch_size, **settings})
        queue.submit(batch_size)  # as the trainer's prepare_step
        batch, metrics = buffer.sample(1, "train", batch_size)
        return queue, batch, metrics

    return sample


def labels_of(queue, batch):
    """Labels of the groups in the batch, sorted."""
    groups = {}
    for key in batch.keys:
        extra = queue.values[key]["extra_fields"].data["reward_extra_info"]
        groups.setdefault(key.split("_")[0], []).append(int(extra["acc"]))
    return sorted(groups.values())


def test_verls_own_filter_drops_all_wrong_groups_and_ours_keeps_them(sampled):
    outcomes = [WRONG, MIXED, RIGHT, MIXED, RIGHT, MIXED, MIXED, MIXED, MIXED]
    queue, batch, metrics = sampled(outcomes, stock=True)
    assert labels_of(queue, batch) == [MIXED] * 3
    assert metrics["training/filter_groups/evicted_samples"] == 3
    queue, batch, metrics = sampled(outcomes)
    assert labels_of(queue, batch) == [WRONG, MIXED, MIXED]
    assert metrics["training/filter_groups/evicted_samples"] == 2
    assert queue.asked == [3, 2]  # verl refills twice what was dropped


@pytest.mark.parametrize(
    ("group_filter", "expected"),
    [
        ("drop_all_correct", [WRONG, MIXED, MIXED]),
        ("keep_mixed", [MIXED, MIXED, MIXED]),
        ("drop_all_wrong", [MIXED, MIXED, RIGHT]),
        ("keep_all", [WRONG, MIXED, RIGHT]),
    ],
)
def test_each_filter_of_the_catalog(group_filter, expected, sampled):
    outcomes = [WRONG, MIXED, RIGHT, MIXED, WRONG if group_filter == "drop_all_wrong" else RIGHT, *[MIXED] * 6]
    queue, batch, _ = sampled(outcomes, group_filter=group_filter)
    assert labels_of(queue, batch) == sorted(expected)


def test_the_census_counts_every_group_sampled(sampled, tmp_path):
    file = tmp_path / "groups.jsonl"
    _, _, metrics = sampled([WRONG, WRONG, RIGHT, MIXED, RIGHT, MIXED, MIXED], groups_file=str(file))
    # Three, then two for the one dropped: MIXED fills the batch, and RIGHT, dropped in the same look, asks for no more.
    census = {name: value for name, value in metrics.items() if name.startswith("groups/")}
    assert census == {
        "groups/all_wrong_frac": pytest.approx(2 / 5), "groups/mixed_frac": pytest.approx(1 / 5),
        "groups/all_right_frac": pytest.approx(2 / 5), "groups/num_sampled": 5.0, "groups/num_kept": 3.0,
        "groups/is_short": 0.0,
    }  # fmt: skip
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted((row["correct"], row["kept"]) for row in rows) == [
        ([False, False], True), ([False, False], True), ([True, False], True), ([True, True], False),
        ([True, True], False),
    ]  # fmt: skip
    assert rows[0].keys() == {"step", "prompt", "kept", "rewards", "correct", "tokens"}
    mixed = next(row for row in rows if row["correct"] == [True, False])
    assert (mixed["step"], mixed["rewards"], mixed["tokens"]) == (1, [1.0, 0.0], [3, 3])
    assert mixed["prompt"].startswith("p-u")


def test_steps_that_are_made_again_are_written_once(sampled, tmp_path):
    """A killed run goes on at a checkpoint: lines of later steps are from before, one of them torn."""
    file = tmp_path / "groups.jsonl"
    earlier = "".join(json.dumps({"step": step, "prompt": "from before"}) + "\n" for step in (0, 1, 2))
    file.write_text(earlier + '{"step": 3, "pro')
    sampled([MIXED, MIXED, WRONG], groups_file=str(file))  # step 1
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 1, 1]
    assert [row["prompt"] == "from before" for row in rows] == [True, False, False, False]


def test_refilling_ends_after_max_batches_where_verls_does_not(sampled):
    """All groups right: after three batches of two the step goes on with what comes."""
    queue, batch, metrics = sampled([RIGHT] * 100, batch_size=2, max_batches=3)
    assert labels_of(queue, batch) == [RIGHT, RIGHT]
    assert metrics["groups/is_short"] == 1.0
    assert 6 <= sum(queue.asked) <= 8  # three batches, and what had been dropped before the last look
    with pytest.raises(IndexError):  # the queue has run dry: stock verl would ask for ever
        sampled([RIGHT] * 100, batch_size=2, stock=True)


def test_a_session_with_two_outputs_is_one_completion(sampled, monkeypatch):
    submit = Queue.submit

    def twice(self, num_prompts):
        submit(self, num_prompts)
        for key in [key for key in self.values if key.endswith("_1_0")]:
            self.tags[key[:-1] + "1"], self.values[key[:-1] + "1"] = {"response_len": 9}, self.values[key]
        return num_prompts

    monkeypatch.setattr(Queue, "submit", twice)
    _, _, metrics = sampled([MIXED, WRONG, MIXED])
    assert metrics["groups/num_kept"] == 3.0
    assert metrics["groups/all_wrong_frac"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_filter": "keep"}, r"sampler_kwargs\.group_filter 'keep' is none of keep_all"),
        ({"filter": "keep_all"}, r"sampler_kwargs\.filter is unknown"),
        ({"label": "correct"}, r"function returned no 'correct' \(it returned \['acc', 'prompt_id', 'score'\]\)"),
    ],
)  # fmt: skip
def test_bad_settings_are_said_by_name(settings, message, sampled):
    with pytest.raises(ConfigError, match=message):
        sampled([MIXED] * 3, **settings)


def test_the_asynchronous_modes_and_a_missing_size_are_refused():
    with pytest.raises(ConfigError, match="trainer_mode is 'colocate_async'"):
        GroupSampler(trainer_mode="colocate_async", sampler_kwargs={"num_prompts_per_step": 2}, refill_fn=len)
    with pytest.raises(ConfigError, match="num_prompts_per_step is missing"):
        GroupSampler(trainer_mode="sync", sampler_kwargs={}, refill_fn=len)


def test_what_the_sampler_holds_on_to_is_still_there():
    """When verl moves, this says what: methods that are overridden or called, and the name that is replaced."""
    for name in ("_dapo_filtered_keys", "sample", "finished_keys", "failure_keys"):
        assert name in vars(replay_buffer.ReplayBuffer) or name in replay_buffer.ReplayBuffer.__init__.__code__.co_names
    import inspect

    parameters = set(inspect.signature(replay_buffer.ReplayBuffer.__init__).parameters)
    assert {"sampler_kwargs", "refill_fn", "filter_groups_metric", "train_batch_size", "gen_batch_size"} <= parameters
    called = trainer_base.PPOTrainer._compute_advantage.__code__.co_names
    assert "compute_advantage_for_multi_trajectories" in called
