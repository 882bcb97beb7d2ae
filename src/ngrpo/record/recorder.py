"""The run folder's records: metrics, groups and samples as JSONL; TensorBoard and W&B as listeners."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ngrpo.record.jsonl import append_lines, keep_lines
from ngrpo.record.metrics import is_declared
from ngrpo.types import Group

NUM_FAILURES = 32
"""Completions written down when a run stops because the verifier fails."""


class Listener(Protocol):
    """Somebody else who is told every metric."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step."""
        ...

    def close(self) -> None:
        """Flushes and ends."""
        ...


class Recorder:
    """Writes what happened in a run folder.

    Args:
        folder: The run folder.
        listeners: Also told.
        num_groups_per_step: Groups written to samples.jsonl each step, every completion of them.
    """

    def __init__(self, folder: Path, *, listeners: Sequence[Listener] = (), num_groups_per_step: int = 1) -> None:
        self.folder = folder
        self.listeners = list(listeners)
        self.num_groups_per_step = num_groups_per_step

    def forget_after(self, step: int) -> int:
        """Drops lines of later steps, which a resumed run makes again; returns how many metric lines went."""
        dropped = 0
        for name in ("metrics.jsonl", "groups.jsonl", "samples.jsonl"):
            count = keep_lines(self.folder / name, lambda row: row["step"] <= step)
            dropped += count if name == "metrics.jsonl" else 0
        return dropped

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of one step.

        A number that is not finite is written as null: the line must stay JSON.

        Args:
            step: Rollout steps done.
            metrics: By name; every name is declared in `record.metrics`.
        """
        unknown = sorted(name for name in metrics if not is_declared(name))
        assert not unknown, f"undeclared metrics {unknown}: declare them in record/metrics.py"
        row = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        append_lines(self.folder / "metrics.jsonl", [{"step": step, **row}])
        for listener in self.listeners:
            listener.log(step, metrics)

    def groups(
        self, step: int, groups: Sequence[Group], kept: Sequence[bool], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Records every sampled group of a step in numbers, and a few of them in full.

        Args:
            step: Rollout steps done.
            groups: All sampled groups.
            kept: Whether each entered the update.
            advantages: Of each group's completions; empty where it was not kept.
        """
        append_lines(
            self.folder / "groups.jsonl",
            (
                {
                    "step": step,
                    "prompt": group.prompt.id,
                    "kept": is_kept,
                    "rewards": [outcome.value for outcome in group.outcomes],
                    "correct": [outcome.correct for outcome in group.outcomes],
                    "kinds": [outcome.kind for outcome in group.outcomes],
                    "parts": _parts_of(group),
                    "tokens": [len(completion.token_ids) for completion in group.completions],
                    "advantages": list(row),
                }
                for group, is_kept, row in zip(groups, kept, advantages, strict=True)
            ),
        )
        append_lines(self.folder / "samples.jsonl", self._sample_rows(step, groups))

    def failures(self, step: int, groups: Sequence[Group]) -> None:
        """Records completions that the verifier failed on, `NUM_FAILURES` at most, for a step that ends there.

        Args:
            step: The step that was under way; a run that goes on drops these lines and makes the step again.
            groups: What was sampled.
        """
        failed = [
            (index, place)
            for index, group in enumerate(groups)
            for place, outcome in enumerate(group.outcomes)
            if outcome.is_failure
        ]
        append_lines(
            self.folder / "samples.jsonl", (_sample_row(step, groups, *where) for where in failed[:NUM_FAILURES])
        )

    def _sample_rows(self, step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Evenly spaced groups, whole."""
        count = min(self.num_groups_per_step, len(groups))
        chosen = [place * len(groups) // count for place in range(count)]
        return [
            _sample_row(step, groups, index, place)
            for index in chosen
            for place in range(len(groups[index].completions))
        ]

    def close(self) -> None:
        """Ends the listeners."""
        for listener in self.listeners:
            listener.close()


def _sample_row(step: int, groups: Sequence[Group], index: int, place: int) -> dict[str, Any]:
    """One line of samples.jsonl: one completion of one of a step's groups with its outcome."""
    group = groups[index]
    completion, outcome = group.completions[place], group.outcomes[place]
    return {
        "step": step,
        "group": index,
        "place": place,
        "prompt": group.prompt.id,
        "prompt_text": group.prompt.text,
        "completion": completion.text,
        "gold": group.prompt.gold,
        "finish_reason": completion.finish_reason,
        "reward": outcome.value,
        "parts": dict(outcome.parts),
        "correct": outcome.correct,
        "kind": outcome.kind,
        "extracted": outcome.extracted,
        "rule": outcome.rule,
        "normal_form": outcome.normal_form,
        "detail": outcome.detail,
    }


def _parts_of(group: Group) -> dict[str, list[float | None]]:
    """What the rewards of a group are the sums of, by part; null where the verifier failed."""
    names = dict.fromkeys(name for outcome in group.outcomes for name in outcome.parts)
    return {name: [outcome.parts.get(name) for outcome in group.outcomes] for name in names}


class TensorBoardListener:
    """Writes TensorBoard events.

    Args:
        folder: Where the events go.
        first_step: Events of later steps, left by an interrupted run, are purged.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and ends."""
        self.writer.close()


class WandbListener:
    """Logs to Weights & Biases.

    Args:
        folder: The run folder; wandb's own files go below it.
        project: Project name.
        name: Run name.
        mode: `online` or `offline`.
        config: The resolved configuration.
    """

    def __init__(self, folder: Path, *, project: str, name: str, mode: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.run = wandb.init(project=project, name=name, mode=mode, dir=str(folder), config=dict(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flushes and ends."""
        self.run.finish()
