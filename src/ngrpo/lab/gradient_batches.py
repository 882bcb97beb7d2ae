"""The groups that gradients are taken on: sampled once, on disk as they come, sorted by what came out.

`sampled.jsonl` has one line per group, in the order in which training would draw the prompts: the same seed gives the
same groups, however often sampling was broken off.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ngrpo.data import PromptOrder
from ngrpo.errors import RunFolderError
from ngrpo.record import append_lines, iterate_jsonl, mend_tail
from ngrpo.rewards import Reward
from ngrpo.rollout import Engine, Sampling, sample_groups
from ngrpo.rollout.engine import TRAINING
from ngrpo.types import Completion, Group, Outcome, Prompt

SAMPLED = "sampled.jsonl"

KINDS = ("all_wrong", "mixed", "all_right")
"""What a group can be, by its labels."""

NATURAL = "natural"
"""The batch of the first groups, whatever they are."""

BATCHES = (*KINDS, NATURAL)


def kind_of(group: Group) -> str:
    """Which of `KINDS` a group is. A group of one is never mixed."""
    if group.num_correct == 0:
        return "all_wrong"
    return "all_right" if group.num_correct == len(group.outcomes) else "mixed"


def sort_groups(groups: Sequence[Group], num_groups: int) -> dict[str, list[int]]:
    """The batches: the first groups of each kind, and the first of all.

    A group whose reward failed on a completion is in none: nobody knows what kind it is.

    Args:
        groups: As sampled.
        num_groups: Most groups of a batch.

    Returns:
        By batch, places in `groups`; fewer than asked for, or none, where fewer were sampled.
    """
    judged = [place for place, group in enumerate(groups) if group.num_failures == 0]
    batches = {kind: [place for place in judged if kind_of(groups[place]) == kind] for kind in KINDS}
    batches[NATURAL] = judged
    return {name: places[:num_groups] for name, places in batches.items()}


def census(groups: Sequence[Group]) -> dict[str, int]:
    """How many groups of each kind there are, and how many the reward failed on."""
    judged = [kind_of(group) for group in groups if group.num_failures == 0]
    return {kind: judged.count(kind) for kind in KINDS} | {"failed": len(groups) - len(judged)}


def sample_batches(
    path: Path,
    prompts: Sequence[Prompt],
    make_engine: Callable[[], Engine],
    reward: Reward,
    *,
    num_groups: int,
    max_prompts: int,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    max_rows: int,
    on_groups: Callable[[int], None] | None = None,
) -> list[Group]:
    """Samples until there are `num_groups` groups of every kind, or `max_prompts` prompts have been tried.

    Args:
        path: The file; groups in it are read, not sampled again.
        prompts: The data; each is used once, in the order in which training with this seed would draw them.
        make_engine: Called only when groups are missing.
        reward: Judges.
        num_groups: Wanted of each kind.
        max_prompts: Bound.
        num_samples: Completions per group.
        sampling: How tokens are drawn.
        seed: Of the order and of the samples.
        max_rows: Completions that the engine decodes together: so many are sampled between two looks at the census.
        on_groups: Called with the number of groups there are so far.

    Returns:
        Every group, those found on disk first.

    Raises:
        RunFolderError: A line of the file is no group of these prompts.
    """
    mend_tail(path)
    wanted = min(max_prompts, len(prompts))
    order = PromptOrder(len(prompts), seed).take(0, wanted)
    groups = read_groups(path, [prompts[place] for place in order], num_samples)
    engine = None
    while len(groups) < wanted and not _is_enough(groups, num_groups):
        if on_groups is not None:
            on_groups(len(groups))
        engine = engine or make_engine()
        places = range(len(groups), min(wanted, len(groups) + max(1, max_rows // num_samples)))
        new = sample_groups(
            engine,
            reward,
            [prompts[order[place]] for place in places],
            num_samples=num_samples,
            sampling=sampling,
            seed=seed,
            stream=TRAINING,
            step=0,
            occurrences=places,
        )
        append_lines(path, map(group_row, new))
        groups += new
    if on_groups is not None:
        on_groups(len(groups))
    return groups


def _is_enough(groups: Sequence[Group], num_groups: int) -> bool:
    return all(len(places) == num_groups for places in sort_groups(groups, num_groups).values())


def group_row(group: Group) -> dict[str, Any]:
    """A group as a line of `sampled.jsonl`; `group_of` reads it back, bit for bit."""
    return {
        "prompt": group.prompt.id,
        "prompt_text": group.prompt.text,
        "gold": group.prompt.gold,
        "kind": kind_of(group) if group.num_failures == 0 else "failed",
        "completions": [
            {
                "text": completion.text,
                "token_ids": list(completion.token_ids),
                "logprobs": list(completion.logprobs),
                "finish_reason": completion.finish_reason,
                "entropy_nats": completion.entropy_nats,
                "reward": outcome.value,
                "correct": outcome.correct,
                "outcome": outcome.kind,
            }
            for completion, outcome in zip(group.completions, group.outcomes, strict=True)
        ],
    }


def group_of(row: Mapping[str, Any], prompt: Prompt) -> Group:
    """What `group_row` wrote of a prompt's group."""
    return Group(
        prompt,
        tuple(
            Completion(
                tuple(each["token_ids"]),
                tuple(each["logprobs"]),
                each["text"],
                each["finish_reason"],
                each["entropy_nats"],
            )
            for each in row["completions"]
        ),
        tuple(Outcome(each["reward"], each["correct"], each["outcome"]) for each in row["completions"]),
    )


def read_groups(path: Path, prompts: Sequence[Prompt], num_samples: int) -> list[Group]:
    """The groups of a file; none where there is no file.

    Args:
        path: The file.
        prompts: In the order they were sampled in; the file may be of fewer, or of more.
        num_samples: Completions per group.

    Raises:
        RunFolderError: A line is no group of the prompt in its place.
    """
    groups = []
    for (number, row), prompt in zip(iterate_jsonl(path), prompts, strict=False):
        try:
            group = group_of(row, prompt)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"line {number} of {path} is no sampled group ({error!r}). Remove the file."
            ) from error
        if row["prompt"] != prompt.id or len(group.completions) != num_samples:
            raise RunFolderError(
                f"line {number} of {path} has {len(group.completions)} completions of prompt {row['prompt']!r}, not "
                f"{num_samples} of {prompt.id!r}: it was sampled otherwise. Give another --folder."
            )
        groups.append(group)
    return groups
