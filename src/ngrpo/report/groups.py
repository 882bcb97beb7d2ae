"""Sampled groups for the browser of groups: a bounded choice, with the advantages that methods would give."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ngrpo.errors import NgrpoError
from ngrpo.report.arms import Arm
from ngrpo.report.charts import rounded, spread
from ngrpo.report.fields import or_tell
from ngrpo.report.group_counts import labels, numbers
from ngrpo.report.lines import is_step, rows_of_steps, step_range
from ngrpo.report.model import SampledGroup
from ngrpo.report.records import Notices, Run

MAX_GROUPS = 300
"""Groups in all."""

MAX_SIZE = 64
"""Completions of a group that are shown; advantages are computed with all of them."""

MAX_CHARACTERS = 600
"""Of a completion; a prompt may have twice as many."""

CHARACTERS_IN_ALL = 1_500_000
"""Of all groups together, numbers counted with eight each: the page has a limit."""

NUMBER_CHARACTERS = 8

DEFAULT_METHODS = ("grpo", "ngrpo", "psr", "nsr")
"""Whose advantages every report shows, besides those of its own methods."""

MAX_METHODS = 10

RECORDED = "as trained"
"""The advantages that the run recorded: those that it learned from."""

Row = Mapping[str, Any]


class Advantages:
    """What methods give a group; every group of the same rewards is computed once.

    Args:
        arms: Methods of the report come from their runs.
    """

    def __init__(self, arms: Iterable[Arm]) -> None:
        self._methods = _methods(arms)
        self._known: dict[tuple[Any, ...], dict[str, tuple[float, ...]]] = {}

    def of(self, rewards: Sequence[float], correct: Sequence[bool]) -> dict[str, tuple[float, ...]]:
        """Advantages by method; methods that cannot be computed for this group are left out.

        Args:
            rewards: Of the group.
            correct: Labels of the same completions.
        """
        # Beside its reward and label nothing is known of a completion, so the order within a group does not matter.
        order = sorted(range(len(rewards)), key=lambda place: (rewards[place], correct[place]))
        key = tuple(rewards[place] for place in order), tuple(bool(correct[place]) for place in order)
        if key not in self._known:
            computed = {name: _computed(*method, *key) for name, method in self._methods.items()}
            self._known[key] = {name: values for name, values in computed.items() if values is not None}
        back = sorted(range(len(order)), key=order.__getitem__)
        return {name: tuple(values[at] for at in back) for name, values in self._known[key].items()}


def _methods(arms: Iterable[Arm]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Each objective with each of its parameters once, however many arms have it, named by the method."""
    variants: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in DEFAULT_METHODS}
    for arm in arms:
        for run in arm.runs[:1]:
            if run.objective:
                told = ", ".join(f"{key}={value}" for key, value in sorted(run.params.items()))
                variants.setdefault(run.objective, {})[told] = run.params
    methods = {}
    for name, params_of in variants.items():
        for told, params in (params_of or {"": {}}).items():
            methods[f"{name}, {told}" if told and len(params_of) > 1 else name] = (name, params)
    return dict(list(methods.items())[:MAX_METHODS])


def _computed(
    name: str, params: Mapping[str, Any], rewards: tuple[float, ...], correct: tuple[bool, ...]
) -> tuple[float, ...] | None:
    """Advantages as they reach the update: zero where the group is dropped."""
    from ngrpo import objectives

    try:
        (told,) = objectives.compare({name: params}, rewards, correct=correct)
    except (NgrpoError, TypeError, ValueError, ArithmeticError):  # no method of this catalog; told with its figure
        return None
    if told["advantages"] is None:
        return None
    return tuple(0.0 if told["kept"] is False else rounded(value) for value in told["advantages"])


def sampled_groups(arms: Sequence[Arm], notices: Notices) -> tuple[SampledGroup, ...]:
    """A choice of groups across runs, steps and kinds.

    Args:
        arms: Of all comparisons.
        notices: Told of runs whose groups cannot be read.
    """
    runs = [run for arm in arms for run in arm.runs if run.role != "base"]
    runs = [runs[place] for place in spread(len(runs), MAX_GROUPS)]
    advantages = Advantages(arms)
    chosen, room = [], CHARACTERS_IN_ALL
    for place, run in enumerate(runs):
        share = MAX_GROUPS // len(runs) + (place < MAX_GROUPS % len(runs))
        room_of_run = room // (len(runs) - place)  # what others leave is for those that follow
        what = f"{run.name}: what was sampled in training"
        found = or_tell(partial(_sampled_of, run, share, advantages), what, notices) or []
        for shown in found:
            size = _size(shown)
            if size <= room_of_run:
                chosen.append(shown)
                room_of_run -= size
                room -= size
    return tuple(chosen)


def _sampled_of(run: Run, count: int, advantages: Advantages) -> list[SampledGroup]:
    return [_sampled(run, group, advantages) for group in _chosen(_groups_of(run, count), count)]


def _groups_of(run: Run, count: int) -> list[dict[str, Any]]:
    """Candidates of a run: rows of groups with the texts that are known of them, in `texts`."""
    if run.groups:
        return [{**row, "texts": _strings(row.get("completions"))} for row in run.groups]
    groups_file, samples_file = run.folder / "groups.jsonl", run.folder / "samples.jsonl"
    ends = step_range(samples_file) or step_range(groups_file)
    if ends is None:
        return []
    first, last = ends
    steps = [first + place for place in spread(last - first + 1, count)]
    samples = rows_of_steps(samples_file, steps)
    groups = rows_of_steps(groups_file, list(samples) or steps)
    return [group for step in groups for group in _with_texts(groups[step], samples.get(step, []))]


def _with_texts(groups: Sequence[Row], samples: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Groups of one step of which samples were kept; all of them where no sample was."""
    by_place: dict[int, list[Row]] = defaultdict(list)
    for sample in samples:
        place = sample.get("group")
        if not isinstance(place, int):  # an older file: the first group of the same prompt
            place = next((at for at, each in enumerate(groups) if each.get("prompt") == sample.get("prompt")), None)
        if place is not None and 0 <= place < len(groups):
            by_place[place].append(sample)
    for place, group in enumerate(groups):
        kept = by_place.get(place, [])
        if kept or not by_place:
            texts: dict[int, str] = {}
            for sample in kept:
                at = _place_in(group, sample, texts)
                if at is not None:
                    texts[at] = str(sample.get("completion", ""))
            about = {name: kept[0].get(name) for name in ("prompt_text", "gold")} if kept else {}
            yield {**group, **about, "texts": texts}


def _place_in(group: Row, sample: Row, taken: Mapping[int, str]) -> int | None:
    """Which completion of its group a sample is; in older files the first free one with its reward and label."""
    rewards, correct = (group.get(name) for name in ("rewards", "correct"))
    if not isinstance(rewards, list) or not isinstance(correct, list):
        return None
    place = sample.get("place")
    if isinstance(place, int):
        return place if 0 <= place < len(rewards) else None
    same = (sample.get("reward"), sample.get("correct"))
    free = (at for at in range(min(len(rewards), len(correct))) if at not in taken)
    return next((at for at in free if (rewards[at], correct[at]) == same), None)


def _chosen(groups: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """At most `count` groups: the kinds in equal shares as far as there are any, each spread over the steps."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        rewards = numbers(group.get("rewards"))
        correct = labels(group, rewards) if rewards else None
        if rewards and correct and is_step(group.get("step")):
            by_kind[_kind(correct)].append({**group, "correct": correct, "rewards": rewards})
    kinds = sorted(by_kind, key=lambda kind: len(by_kind[kind]))
    chosen = []
    for place, kind in enumerate(kinds):
        share = (count - len(chosen)) // (len(kinds) - place)
        chosen += [by_kind[kind][at] for at in spread(len(by_kind[kind]), share)] if share else []
    return sorted(chosen, key=lambda group: group["step"])


def _kind(correct: Sequence[bool]) -> str:
    return "all_right" if all(correct) else "mixed" if any(correct) else "all_wrong"


def _sampled(run: Run, group: Mapping[str, Any], advantages: Advantages) -> SampledGroup:
    rewards, correct, texts = group["rewards"], group["correct"], group["texts"]
    size = min(len(rewards), MAX_SIZE)
    given = {name: values[:size] for name, values in advantages.of(rewards, correct).items()}
    recorded = numbers(group.get("advantages"))
    if recorded and len(recorded) == len(rewards) and group.get("kept") is not False:
        given = {RECORDED: tuple(rounded(value) for value in recorded[:size]), **given}
    return SampledGroup(
        run=run.name,
        step=group["step"],
        prompt=_cut(str(group.get("prompt_text") or group.get("prompt") or ""), 2 * MAX_CHARACTERS),
        gold=_cut(str(group.get("gold") or ""), MAX_CHARACTERS),
        kind=_kind(correct),
        completions=tuple(_cut(texts[at], MAX_CHARACTERS) if at in texts else None for at in range(size)),
        rewards=tuple(rounded(value) for value in rewards[:size]),
        correct=tuple(correct[:size]),
        advantages=given,
    )


def _cut(text: str, length: int) -> str:
    """A text of at most this length, and how much is missing."""
    return text if len(text) <= length else f"{text[:length]} [... {len(text) - length} more characters]"


def _strings(texts: Any) -> dict[int, str]:
    listed = texts if isinstance(texts, list) else []
    return {place: text for place, text in enumerate(listed) if isinstance(text, str)}


def _size(group: SampledGroup) -> int:
    texts = [group.prompt, group.gold, *(text or "" for text in group.completions)]
    return sum(map(len, texts)) + NUMBER_CHARACTERS * len(group.rewards) * (2 + len(group.advantages))
