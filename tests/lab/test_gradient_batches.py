"""The groups gradients are taken on: the same ones however often sampling was broken off, and sorted by kind."""

import json

import pytest

from helpers import EqualsGold, make_prompt
from ngrpo.errors import RunFolderError
from ngrpo.lab.gradient_batches import (
    BATCHES,
    census,
    group_of,
    group_row,
    kind_of,
    read_groups,
    sample_batches,
    sort_groups,
)
from ngrpo.rollout import NativeEngine, Sampling
from ngrpo.types import Completion, Group, Outcome

PROMPTS = [make_prompt(f"{a},2,3=6:") for a in range(1, 9)]


class ByText:
    """A reward that makes groups of every kind out of noise; may be broken off at one of its calls."""

    def __init__(self, *, falls_over_at=None):
        self.calls, self.falls_over_at = 0, falls_over_at

    def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.falls_over_at:
            raise KeyboardInterrupt
        right = [len(each.token_ids) % 3 > 0 if prompt.text[0] < "5" else prompt.text[0] == "5"
                 for prompt, each in zip(prompts, completions, strict=True)]  # fmt: skip
        return [Outcome(float(each), each) for each in right]


def sample(path, policy, *, reward=None, num_groups=2, max_prompts=8, rows=8, engines=None):
    def make_engine():
        if engines is not None:
            engines.append(1)
        return NativeEngine(policy, max_rows=rows)

    return sample_batches(
        path,
        PROMPTS,
        make_engine,
        reward or ByText(),
        num_groups=num_groups,
        max_prompts=max_prompts,
        num_samples=4,
        sampling=Sampling(6, 1.0),
        seed=3,
        max_rows=rows,
    )


def test_broken_off_at_any_chunk_it_ends_with_the_same_groups(policy, tmp_path):
    whole = sample(tmp_path / "whole", policy, num_groups=9)
    assert len(whole) == 8
    path = tmp_path / "broken"
    for call in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            sample(path, policy, reward=ByText(falls_over_at=call), num_groups=9)
    with path.open("a") as file:
        file.write('{"prompt": "torn')
    again = sample(path, policy, num_groups=9)
    assert path.read_text() == (tmp_path / "whole").read_text()
    assert again == whole


def test_in_other_chunks_the_same_tokens_come(policy, tmp_path):
    """Chunks change what is decoded together, hence the last bits of log-probabilities, and nothing else."""

    def tokens(rows):
        found = sample(tmp_path / f"{rows}", policy, num_groups=9, rows=rows)
        return [[completion.token_ids for completion in group.completions] for group in found]

    assert tokens(4) == tokens(8) == tokens(64)


def test_groups_on_disk_are_not_sampled_again(policy, tmp_path):
    engines = []
    first = sample(tmp_path / "groups", policy, engines=engines)
    assert sample(tmp_path / "groups", policy, engines=engines) == first
    assert len(engines) == 1


def test_it_stops_when_there_are_enough_of_every_kind(policy, tmp_path):
    found = sample(tmp_path / "groups", policy, num_groups=1, rows=4)
    assert set(map(kind_of, found)) == {"all_wrong", "mixed", "all_right"}
    assert len(found) < 8
    assert kind_of(found[-1]) not in map(kind_of, found[:-1])
    assert len(sample(tmp_path / "three", policy, num_groups=9, max_prompts=3)) == 3


def test_a_group_comes_back_from_its_line_bit_for_bit(policy, tmp_path):
    for group in sample(tmp_path / "groups", policy):
        assert group_of(json.loads(json.dumps(group_row(group))), group.prompt) == group


def make_group(labels, kind="scored"):
    return Group(
        PROMPTS[0],
        tuple(Completion((5, 1), (-1.0, -0.1), "3", "eos") for _ in labels),
        tuple(Outcome(float(each), bool(each), kind) for each in labels),
    )


def test_batches_are_the_first_of_each_kind_and_the_first_of_all():
    groups = [make_group(each) for each in ([0, 0], [1, 0], [0, 0], [1, 1], [0, 0], [0, 1])]
    groups.insert(1, make_group([0, 1], kind="timeout"))
    assert sort_groups(groups, 2) == {"all_wrong": [0, 3], "mixed": [2, 6], "all_right": [4], "natural": [0, 2]}
    assert census(groups) == {"all_wrong": 3, "mixed": 2, "all_right": 1, "failed": 1}
    assert set(sort_groups([], 2)) == set(BATCHES)


def test_a_group_of_one_is_never_mixed():
    assert [kind_of(make_group([each])) for each in (0, 1)] == ["all_wrong", "all_right"]


@pytest.mark.parametrize("line", ['{"prompt": "1,2,3=6:"}', '{"prompt": "x", "completions": []}', '{"completions": 3}'])
def test_a_line_that_is_no_group_is_named(tmp_path, line):
    path = tmp_path / "sampled.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RunFolderError, match="line 1 of"):
        read_groups(path, PROMPTS[:1], 4)


def test_groups_of_another_size_are_refused(policy, tmp_path):
    sample(tmp_path / "groups", policy, reward=EqualsGold())
    with pytest.raises(RunFolderError, match=r"4 completions of prompt .* not 5"):
        read_groups(tmp_path / "groups", [PROMPTS[0]] * 8, 5)
