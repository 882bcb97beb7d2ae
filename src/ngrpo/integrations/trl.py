"""TRL's `GRPOTrainer` with the objectives of this package; everything else of it stays as it is.

    from ngrpo.integrations.trl import NGRPOConfig, NGRPOTrainer       # instead of: from trl import GRPOConfig, ...
    from ngrpo.integrations.trl import ObjectiveConfig, ObjectiveTrainer

Advantages and filters are the objective's own, on the rewards of all processes, in whole groups, before anything is
cut. The loss is TRL's own, set up as the objective has it: `trl_parts` says which part goes where. Two methods of
`GRPOTrainer` are overridden; generation (vLLM, tools, a rollout function of one's own) is not touched.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ngrpo.errors import ConfigError, MissingExtraError, RunFolderError
from ngrpo.integrations.trl_groups import Decided, Judged, decide, group_metrics, house_groups, judged
from ngrpo.integrations.trl_parts import carried
from ngrpo.objectives import Counts, Objective, RewardBatch, RolloutFacts
from ngrpo.record import Recorder

try:
    from accelerate.utils import gather_object
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from ngrpo.integrations.trl_config import (
        NGRPOConfig,
        ObjectiveConfig,
        configured,
        label_column,
        ngrpo_of,
        objective_of,
        refuse_few_prompts,
    )
    from ngrpo.integrations.trl_seams import check_classes, check_scored, check_trainer
except ImportError as error:
    raise MissingExtraError(f'ngrpo.integrations.trl needs TRL: pip install "ngrpo[trl]" ({error}).') from error


class ObjectiveTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` on an objective of this package.

    The objective says what advantages, filter and loss are; settings of `GRPOConfig` that would say otherwise are
    refused. Logged besides TRL's own metrics: `groups/all_wrong_frac`, `groups/mixed_frac`, `groups/all_right_frac`,
    `groups/failed_frac`, `groups/gradient_frac` (shares) and `groups/num_sampled`, `groups/num_kept`, per generation.
    The completions table shows the advantages that were trained on.

    Args:
        model: As for `GRPOTrainer`.
        reward_funcs: As for `GRPOTrainer`. A completion to which none of them gives a number keeps its whole group out
            of the update.
        args: The configuration.
        *rest: As for `GRPOTrainer`.
        objective: A name in the catalog, or an objective: `objectives.get("dr_grpo", clip_high=0.28)`.
        **options: As for `GRPOTrainer`.

    Raises:
        ConfigError: TRL cannot carry the objective, or a setting contradicts it, or TRL has changed; before the model
            is loaded. Names of reward functions are TRL's to give: `correct_from` is looked up afterwards.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: ObjectiveConfig | None = None,
        *rest: Any,
        objective: str | Objective,
        **options: Any,
    ) -> None:
        check_classes()
        if args is not None and not isinstance(args, ObjectiveConfig):
            raise ConfigError(
                f"args is a {type(args).__name__}; {type(self).__name__} needs an ObjectiveConfig (or NGRPOConfig) of "
                "ngrpo.integrations.trl, which takes the same settings and a few of its own."
            )
        args = ObjectiveConfig() if args is None else args
        num_functions = len(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else 1
        self.objective = objective_of(objective, args, num_functions)
        self._carried = carried(self.objective)
        args = configured(args, self.objective, self._carried)
        refuse_few_prompts(args, rest[0] if rest else options.get("train_dataset"))
        super().__init__(model, reward_funcs, args, *rest, **options)
        check_trainer(self)
        self._label_column = label_column(args, self.objective, self.reward_func_names)
        self._recorder = Recorder(Path(args.output_dir)) if args.record_groups else None
        if self._recorder is not None:
            self.add_callback(_ForgetsUnsaved(self._recorder, self.accelerator))

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> Tensor:
        """TRL's own, remembered until the advantages are taken."""
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        lengths = [[len(ids), bool(ids) and ids[-1] not in ends] for ids in completion_ids_list]
        lengths = self.accelerator.gather(torch.tensor(lengths, device=rewards_per_func.device))
        self._heard = (rewards_per_func, lengths, completion_ids_list)
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own, with our advantages, and without the completions that are to stay out of the loss."""
        output = super()._generate_and_score_completions(inputs)
        check_scored(output)
        mode = "train" if self.model.training else "eval"
        rewards_per_func, lengths, token_ids = self._heard
        batch = judged(
            rewards_per_func,
            self.reward_weights.to(rewards_per_func.device),
            self.num_generations if mode == "train" else self.num_generations_eval,
            label_column=self._label_column,
            correct_at=self.args.correct_at,
        )
        decided = self._decided(batch, lengths, output)
        for name, value in group_metrics(batch, decided).items():
            self._metrics[mode][name].append(value)
        self._rewrite_logged_advantages(decided.per_completion)
        if self._recorder is not None and mode == "train":
            self._record(batch, decided, lengths, token_ids, [row.get("id") for row in inputs])
        self._put(output, decided, len(inputs))
        return output

    def _decided(self, batch: Judged, lengths: Tensor, output: dict[str, Any]) -> Decided:
        """What the objective makes of the generation of all processes."""
        objective = self.objective
        if len(batch.groups) // (int(batch.groups[-1]) + 1) < objective.min_group_size:
            # An evaluation may sample one completion a prompt, which has nothing to be compared with.
            objective = replace(objective, advantage=_no_advantage)
        old_logprobs = None
        if "old_logprobs" in objective.needs_facts:
            old_logprobs = self.accelerator.pad_across_processes(output["old_per_token_logps"], dim=1)
            old_logprobs = self.accelerator.gather(old_logprobs)
        completion_tokens, is_truncated = lengths.unbind(dim=1)
        facts = RolloutFacts(
            completion_tokens=completion_tokens, is_truncated=is_truncated.bool(), old_logprobs=old_logprobs
        )
        return decide(objective, batch, facts)

    def _put(self, output: dict[str, Any], decided: Decided, num_rows: int) -> None:
        """Writes this process's share into what TRL shuffles, cuts and takes the loss of."""
        first = self.accelerator.process_index * num_rows
        own = slice(first, first + num_rows)
        is_on = output["completion_mask"] * output.get("tool_mask", 1)
        output["advantages"] = _of_width(decided.advantages[own], is_on.shape[1]).to(is_on.device)
        if not decided.is_counted.all():
            # TRL's mask of tokens that are read and not trained on. With it, not with the attention mask: what the
            # forward pass sees, and with it the ratio to the old log-probabilities, stays as it was.
            is_on = is_on * decided.is_counted[own].to(is_on.device).unsqueeze(1)
            output["tool_mask"] = is_on
        counts = self.accelerator.gather(torch.stack([is_on.sum(), is_on.any(dim=1).sum()])).view(-1, 2).sum(dim=0)
        divisor = self._carried.divisor(Counts(*counts.tolist()))
        output["num_items_in_batch"] = torch.tensor(divisor, device=is_on.device)
        if not self._carried.has_ratio:
            output.pop("old_per_token_logps", None)

    def _rewrite_logged_advantages(self, advantages: Tensor) -> None:
        """Puts the advantages that are trained on into the completions table, where TRL has just put its own."""
        logged = self._logs["advantages"]
        for _ in range(min(len(logged), len(advantages))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _record(
        self, batch: Judged, decided: Decided, lengths: Tensor, token_ids: Sequence[Sequence[int]], ids: Sequence[Any]
    ) -> None:
        """Writes the groups of a generation, on the main process."""
        token_ids, ids = gather_object(list(token_ids)), gather_object(list(ids))
        if not self.accelerator.is_main_process:
            return
        groups = house_groups(
            batch,
            list(self._logs["prompt"])[-len(ids) :],
            list(self._logs["completion"])[-len(ids) :],
            ids=ids,
            token_ids=token_ids,
            is_truncated=lengths[:, 1].tolist(),
        )
        size = len(ids) // len(groups)
        kept = decided.is_kept[::size].tolist()
        advantages = decided.per_completion.view(-1, size).tolist()
        rows = [row if is_kept else [] for row, is_kept in zip(advantages, kept, strict=True)]
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        self._recorder.groups(self.state.global_step + 1, groups, kept, rows)


class NGRPOTrainer(ObjectiveTrainer):
    """TRL's `GRPOTrainer` on NGRPO (arXiv 2509.18851): `NGRPOConfig` has its settings.

    Args:
        model: As for `GRPOTrainer`.
        reward_funcs: As for `ObjectiveTrainer`.
        args: The configuration.
        *rest: As for `GRPOTrainer`.
        **options: As for `GRPOTrainer`.

    Raises:
        ConfigError: As for `ObjectiveTrainer`.
    """

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: NGRPOConfig | None = None, *rest: Any, **options: Any
    ) -> None:
        if args is not None and not isinstance(args, NGRPOConfig):
            raise ConfigError(
                f"args is a {type(args).__name__}; NGRPOTrainer needs an NGRPOConfig of ngrpo.integrations.trl, which "
                "takes the same settings. Its epsilon is 0.16 and its epsilon_high 0.24 unless set."
            )
        args = NGRPOConfig() if args is None else args
        num_functions = len(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else 1
        objective = ngrpo_of(args, num_functions)
        super().__init__(model, reward_funcs, args, *rest, objective=objective, **options)
        ngrpo_of(args, len(self.reward_func_names))  # environments of TRL's may have brought reward functions too


class _ForgetsUnsaved(TrainerCallback):
    """When a run goes on from a checkpoint, drops records of the steps that it makes again."""

    def __init__(self, recorder: Recorder, accelerator: Any) -> None:
        self._recorder, self._accelerator = recorder, accelerator

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._accelerator.is_main_process:
            return
        path = self._recorder.folder / "groups.jsonl"
        if state.global_step == 0 and path.exists():
            raise RunFolderError(
                f"{path} is there already, from an earlier run, which this one would mix with. Choose another "
                "output_dir, move the file away, or go on with trainer.train(resume_from_checkpoint=True)."
            )
        self._recorder.forget_after(state.global_step)


def _of_width(advantages: Tensor, width: int) -> Tensor:
    """[N] as it is; [N, T] cut or padded to the completions of this process."""
    if advantages.ndim == 1:
        return advantages
    return torch.nn.functional.pad(advantages, (0, width - advantages.shape[1]))


def _no_advantage(batch: RewardBatch) -> Tensor:
    return torch.zeros_like(batch.rewards)
