"""Counting lines: what is counted, and that everything odd is named with its line."""

import json
import random

import numpy as np
import pytest
from evaluation_rows import make_folder, rows_of

from ngrpo.errors import DataError, RunFolderError
from ngrpo.evaluate import counts as module
from ngrpo.evaluate import read_counts

PROMPTS = ["a", "b", "π"]


@pytest.fixture
def rows():
    """Three prompts, three samples each, shuffled."""
    found = [
        *rows_of("a", 1, 3, level="1"),
        *rows_of("b", 3, 3, finish_reason="length", tokens=7),
        *rows_of("π", 0, 3, kind="unparsed", normal_form=None, entropy_nats=1.0, completion='\ud800 "}\n{\\'),
    ]
    random.Random(1).shuffle(found)
    return found


@pytest.fixture
def folder(tmp_path, rows):
    strata = {"a": {"level": "1"}, "b": {"level": "2", "subject": "x"}}
    return make_folder(tmp_path, rows, prompts=PROMPTS, num_samples=3, strata=strata)


def test_everything_by_hand(folder):
    counts = read_counts(folder)
    assert counts.prompt_ids == PROMPTS
    assert counts.settings["num_samples"] == 3
    assert counts.strata == {"level": ["1", "2", ""], "subject": ["", "x", ""]}
    assert counts.num_samples.tolist() == [3, 3, 3]
    assert counts.num_correct.tolist() == [1, 3, 0]
    assert counts.is_there.all()
    assert counts.is_correct.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    same = counts.votes[:, :, None] == counts.votes[:, None, :]
    assert same[0].tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    assert counts.votes[1].tolist() == [0, 0, 0]
    assert counts.votes[2].tolist() == [module.NO_VOTE] * 3
    assert counts.has_votes
    assert {kind: number.tolist() for kind, number in counts.kinds.items()} == {
        "scored": [3, 3, 0],
        "unparsed": [0, 0, 3],
    }
    assert counts.num_truncated.tolist() == [0, 3, 0]
    assert counts.num_truncated_correct.tolist() == [0, 3, 0]
    assert counts.num_unknown_end.tolist() == [0, 0, 0]
    assert counts.lengths_tokens.tolist() == [[4] * 3, [7] * 3, [4] * 3]
    assert counts.entropy_sums_nats.tolist() == pytest.approx([3 * 4 * 0.5, 3 * 7 * 0.5, 3 * 4 * 1.0])
    assert counts.num_entropy_tokens.tolist() == [12, 21, 12]


def as_lists(counts):
    return {name: np.asarray(value).tolist() for name, value in vars(counts).items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 1000])
def test_blocks_of_any_size_count_the_same(folder, monkeypatch, block_bytes):
    whole = as_lists(read_counts(folder))
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    assert as_lists(read_counts(folder)) == whole


def test_an_evaluation_that_goes_on_can_be_counted(folder):
    samples = folder / "samples.jsonl"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-5])  # the last line is being written
    assert read_counts(folder).num_samples.sum() == 8
    samples.unlink()
    empty = read_counts(folder)
    assert (empty.num_samples.tolist(), empty.is_there.shape) == ([0, 0, 0], (3, 0))


def test_what_is_not_known_is_told_apart(tmp_path):
    rows = [*rows_of("a", 1, 1, tokens=None, finish_reason=None), *rows_of("b", 1, 1, entropy_nats=None)]
    counts = read_counts(make_folder(tmp_path, rows, prompts=["a", "b"], num_samples=None))
    assert counts.num_unknown_end.tolist() == [1, 0]
    assert counts.lengths_tokens.tolist() == [[module.UNKNOWN], [4]]
    assert counts.num_entropy_tokens.tolist() == [0, 0]


def test_an_odd_line_is_counted_like_any_other(folder, rows):
    # A lone surrogate in the answer, and numbers that JSON has in several forms: the fast reader takes neither.
    odd = {**rows[0], "normal_form": "\ud800", "entropy_nats": 0.5}
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [odd, *rows[1:]]))
    assert read_counts(folder).num_samples.tolist() == [3, 3, 3]


# --- what is refused ---


def edited(folder, number, line):
    """Puts a line in the place of one, counted from 1."""
    lines = (folder / "samples.jsonl").read_bytes().split(b"\n")
    lines[number - 1] = line
    (folder / "samples.jsonl").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a", ', r"line 4 of .*samples\.jsonl is not a JSON object\. Mend or remove that line"),
        (b"[]", r"line 4 of .*samples\.jsonl is not a JSON object"),
        (b"", r"line 4 of .*samples\.jsonl is not a JSON object"),
        (b'{"step": 3}', r"line 4 of .*samples\.jsonl is no sample of an evaluation: .*field `prompt`"),
        (b'{"prompt": "a", "sample": "1", "correct": true, "kind": "scored"}', r"line 4 .*Expected `int`, got `str`"),
        (b'{"prompt": "a", "sample": -1, "correct": true, "kind": "scored"}', r"line 4 .*Expected `int` >= 0"),
        (b'{"prompt": "a", "sample": 1, "correct": "False", "kind": "scored"}', r"line 4 .*Expected `bool`, got `str`"),
        (b'{"prompt": 7, "sample": 1, "correct": true, "kind": "scored"}', r"line 4 .*Expected `str`, got `int`"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_named(folder, line, message):
    edited(folder, 4, line)
    with pytest.raises(RunFolderError, match=message):
        read_counts(folder)


@pytest.mark.parametrize(("prompt", "sample"), [("stranger", 0), ("a", 3)])
def test_a_sample_of_something_else_is_named(folder, prompt, sample):
    edited(folder, 4, json.dumps(rows_of(prompt, 0, sample + 1)[-1]).encode())
    message = rf"line 4 of .*samples\.jsonl: sample {sample} of prompt '{prompt}' is there twice, or is none of this"
    with pytest.raises(DataError, match=message):
        read_counts(folder)


def test_a_sample_twice_is_named(folder):
    first = (folder / "samples.jsonl").read_bytes().split(b"\n")[1]
    edited(folder, 6, first)
    row = json.loads(first)
    with pytest.raises(DataError, match=rf"line 6 of .*: sample {row['sample']} of prompt '{row['prompt']}' is there"):
        read_counts(folder)


def test_a_folder_without_problems_is_refused(folder):
    (folder / "problems.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"has no problems\.jsonl, which says over which prompts"):
        read_counts(folder)
    (folder / "problems.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"problems\.jsonl: prompt 'a' is there twice"):
        read_counts(folder)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no evaluation: it has no eval\.json"):
        read_counts(tmp_path)
