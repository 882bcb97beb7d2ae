"""verl's replay buffer with our group filter and census: `trainer.v1.sampler.custom_sampler`.

verl's own filter (`algorithm.filter_groups`) drops every group whose rewards are equal, the all-wrong ones among them,
which NGRPO learns from. This one drops by kind, as the verifier's labels have it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from ngrpo.errors import ConfigError
from ngrpo.integrations.verl import ESTIMATORS
from ngrpo.objectives.filters import FILTERS
from ngrpo.record import append_lines, keep_lines

SETTINGS = ("group_filter", "num_prompts_per_step", "max_batches", "label", "groups_file")
KINDS = ("all_wrong", "mixed", "all_right")


class GroupSampler(ReplayBuffer):
    """Samples whole groups, drops and refills by their kind, counts all three kinds, and writes groups.jsonl.

    `trainer.v1.sampler.sampler_kwargs` (each with a `+` in front, as verl has none of them):
        group_filter: `keep_all`, `keep_mixed`, `drop_all_correct` (the default) or `drop_all_wrong`. Where it drops
            anything, `algorithm.filter_groups.enable=True` too: it makes verl fetch refills prompt by prompt.
        num_prompts_per_step: `data.train_batch_size`.
        max_batches: After so many batches of prompts, the first included, the step goes on with the groups that come,
            whatever their kind; the last refill may go over it by less than a batch. Left out, without bound, as verl
            does.
        label: Key of the verifier's label in what the reward function returns. `acc` is verl's word.
        groups_file: A file of this run alone for a line per sampled group, in the columns of our groups.jsonl. A run
            that goes on from a checkpoint replaces the lines of the steps that it makes again.
    """

    def __init__(
        self, *args: Any, sampler_kwargs: Mapping[str, Any], refill_fn: Callable[[int], int], **kwargs: Any
    ) -> None:
        settings = {"group_filter": "drop_all_correct", "label": "acc", **(sampler_kwargs or {})}
        _check(settings, kwargs.get("trainer_mode"))
        kinds = FILTERS[settings["group_filter"]]
        self._dropped = {kind for kind in KINDS if not getattr(kinds, kind)}
        self._label = settings["label"]
        self._groups_file = Path(settings["groups_file"]) if settings.get("groups_file") else None
        num_prompts, max_batches = settings["num_prompts_per_step"], settings.get("max_batches")
        self._max_refills = None if max_batches is None else (max_batches - 1) * num_prompts
        self._has_begun = False
        self._given_refill = refill_fn
        self._start_step()
        super().__init__(
            *args,
            sampler_kwargs=sampler_kwargs,
            refill_fn=self._refill,
            filter_groups_metric=self._label if self._dropped else None,
            train_batch_size=num_prompts,
            gen_batch_size=1 if self._dropped else num_prompts,
            **kwargs,
        )
        count_sessions_once()

    def _start_step(self) -> None:
        self._groups: dict[str, dict[str, Any]] = {}
        self._num_refilled = 0

    def _refill(self, num_prompts: int) -> int:
        self._num_refilled += num_prompts
        return self._given_refill(num_prompts)

    @property
    def _is_short(self) -> bool:
        """Whether this step has sampled all it may."""
        return bool(self._dropped) and self._max_refills is not None and self._num_refilled >= self._max_refills

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter]:
        """The groups to be dropped, and how many there are per value of their label: verl asks this of its filter."""
        if partition_id == "val":
            return set(), Counter()
        terminal = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        self._look_at(partition_id, terminal - self._groups.keys())
        if self._is_short:
            return set(), Counter()
        dropped = {uid for uid in terminal & self._groups.keys() if self._groups[uid]["kind"] in self._dropped}
        return dropped, Counter(float(self._groups[uid]["correct"][0]) for uid in dropped)

    def _look_at(self, partition_id: str, uids: set[str]) -> None:
        """Finds the kinds of groups that have come to their end. A session that has several outputs counts once."""
        sessions: dict[str, str] = {}
        for key in self.partitions[partition_id]:
            uid, session, _ = key.rsplit("_", 2)
            if uid in uids:
                sessions[f"{uid}_{session}"] = max(sessions.get(f"{uid}_{session}", key), key, key=_output_of)
        if not sessions:
            return
        keys = list(sessions.values())
        fields = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields", "rm_scores"])
        rows = defaultdict(list)
        for key, extra, scores in zip(keys, fields["extra_fields"], fields["rm_scores"], strict=True):
            rows[key.rsplit("_", 2)[0]].append((key, getattr(extra, "data", extra), float(scores.sum())))
        for uid, found in rows.items():
            correct = [self._label_of(extra) for _, extra, _ in found]
            kind = "all_right" if all(correct) else "mixed" if any(correct) else "all_wrong"
            self._groups[uid] = {
                "kind": kind,
                "prompt": str(_info_of(found[0][1]).get("prompt_id", uid)),
                "rewards": [reward for _, _, reward in found],
                "correct": correct,
                "tokens": [self.partitions[partition_id][key].get("response_len") for key, _, _ in found],
            }

    def _label_of(self, extra: Any) -> bool:
        info = _info_of(extra)
        if self._label not in info:
            raise ConfigError(
                f"the reward function returned no {self._label!r} (it returned {sorted(info) or 'a number alone'}), "
                "by which groups are filtered and counted. Return a dict with the verifier's label in it, as "
                "ngrpo.integrations.verl_reward does, or name its key in "
                "trainer.v1.sampler.sampler_kwargs.label."
            )
        return bool(info[self._label])

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        """A batch of whole groups and verl's metrics, with the census among them."""
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)
        if self._groups_file is not None and not self._has_begun:
            keep_lines(self._groups_file, lambda row: row["step"] < global_steps)
        self._has_begun = True
        self._start_step()
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        chosen = {key.rsplit("_", 2)[0] for key in batch.keys}
        metrics.update(self._census(chosen))
        if self._groups_file is not None:
            append_lines(
                self._groups_file,
                (
                    {"step": global_steps, "kept": uid in chosen, **{name: row[name] for name in row if name != "kind"}}
                    for uid, row in self._groups.items()
                ),
            )
        return batch, metrics

    def _census(self, chosen: set[str]) -> dict[str, float]:
        """Shares of the kinds among all groups sampled for the step, dropped and surplus ones included."""
        counts, num_sampled = Counter(row["kind"] for row in self._groups.values()), max(1, len(self._groups))
        return {
            **{f"groups/{kind}_frac": counts[kind] / num_sampled for kind in KINDS},
            "groups/num_sampled": float(len(self._groups)),
            "groups/num_kept": float(len(chosen)),
            "groups/is_short": float(self._is_short),
        }


def count_sessions_once() -> None:
    """Makes verl's v1 trainer count each session once for our estimators too, as it does for `grpo` alone.

    verl picks the final output of a session, and gives its advantage to the others, only for an estimator of that name;
    for others a session with three outputs weighs three times in its group. There is no hook, so the trainer's own
    name for that function is given another.
    """
    given = trainer_base.compute_advantage_for_multi_trajectories
    if getattr(given, "counts_sessions_once", False):
        return

    def compute(data: Any, batch_keys: list[str], adv_estimator: str, **settings: Any) -> Any:
        last: dict[str, int] = {}
        for row, key in enumerate(batch_keys):
            session = key.rsplit("_", 1)[0]
            if session not in last or _output_of(batch_keys[last[session]]) < _output_of(key):
                last[session] = row
        if adv_estimator not in ESTIMATORS or len(last) == len(batch_keys):
            return given(data, batch_keys=batch_keys, adv_estimator=adv_estimator, **settings)
        place = {session: index for index, session in enumerate(last)}
        final = compute_advantage(data.select_idxs(list(last.values())), adv_estimator=adv_estimator, **settings)
        first = final.batch["response_mask"].argmax(dim=1, keepdim=True)
        per_session = final.batch["advantages"].gather(1, first)
        spread = per_session[[place[key.rsplit("_", 1)[0]] for key in batch_keys]] * data.batch["response_mask"]
        data.batch["advantages"] = data.batch["returns"] = spread
        return data

    compute.counts_sessions_once = True
    trainer_base.compute_advantage_for_multi_trajectories = compute


def _check(settings: Mapping[str, Any], trainer_mode: str | None) -> None:
    where = "trainer.v1.sampler.sampler_kwargs"
    unknown = sorted(settings.keys() - set(SETTINGS))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]} is unknown. There are: {', '.join(SETTINGS)}.")
    if settings["group_filter"] not in FILTERS:
        raise ConfigError(f"{where}.group_filter {settings['group_filter']!r} is none of {', '.join(FILTERS)}.")
    if "num_prompts_per_step" not in settings:
        raise ConfigError(f"{where}.num_prompts_per_step is missing. Set it to what data.train_batch_size is.")
    if trainer_mode not in (None, "sync"):
        raise ConfigError(
            f"trainer.v1.trainer_mode is {trainer_mode!r}, and the group sampler is for 'sync': the asynchronous ones "
            "sample by rules of their own. Set trainer.v1.trainer_mode=sync, or leave the sampler out."
        )


def _output_of(key: str) -> int:
    """Which output of its session a key is of."""
    return int(key.rsplit("_", 1)[1])


def _info_of(extra: Any) -> Mapping[str, Any]:
    return extra.get("reward_extra_info", {}) if isinstance(extra, dict) else {}
