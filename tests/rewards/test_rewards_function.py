import sys
import textwrap

import numpy as np
import pytest

from ngrpo.errors import RewardError
from ngrpo.rewards import FunctionReward, load_function
from ngrpo.types import Completion, Outcome, Prompt

PROMPTS = [Prompt(f"p{i}", f"text {i}", (), str(i), f"d.jsonl row {i + 1}", {"extra": i}) for i in range(3)]
COMPLETIONS = [Completion((), (), text, "eos") for text in ("0", "one", "2")]


def run(function, **kwargs):
    return FunctionReward(function, name="f.py:f", **kwargs)(PROMPTS, COMPLETIONS)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))

    return write


def test_the_function_gets_the_batch_by_keyword():
    seen = {}

    def reward(**batch):
        seen.update(batch)
        return [0.0] * 3

    run(reward)
    assert seen == {
        "prompts": ["text 0", "text 1", "text 2"],
        "completions": ["0", "one", "2"],
        "golds": ["0", "1", "2"],
        "rows": [{"extra": 0}, {"extra": 1}, {"extra": 2}],
    }


def test_scores_are_labelled_by_the_threshold():
    outcomes = run(lambda **_: [1.0, 0.5, True])
    assert outcomes == [Outcome(1.0, True), Outcome(0.5, False), Outcome(1.0, True)]
    assert [outcome.correct for outcome in run(lambda **_: [1.0, 0.5, -1], correct_at=0.5)] == [True, True, False]


def test_pairs_bring_their_own_label():
    outcomes = run(lambda **_: [(0.2, True), (1.0, False), [3, np.bool_(True)]])
    assert outcomes == [Outcome(0.2, True), Outcome(1.0, False), Outcome(3.0, True)]


def test_numbers_of_other_libraries_are_numbers():
    torch = pytest.importorskip("torch")
    assert [o.value for o in run(lambda **_: np.array([0.5, 1.0, 2.0], dtype=np.float32))] == [0.5, 1.0, 2.0]
    assert [o.value for o in run(lambda **_: torch.tensor([0.5, 1.0, 2.0]))] == [0.5, 1.0, 2.0]
    assert [o.value for o in run(lambda **_: iter([1, 2, 3]))] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-float("inf"), "-inf"),
        (None, "None"),
        ("1.0", "'1.0'"),
        ((1.0, 0.5), r"\(1\.0, 0\.5\)"),
        ((1.0, None), r"\(1\.0, None\)"),
        ((1.0, True, 3), r"\(1\.0, True, 3\)"),
        (np.array([1.0, 2.0, 3.0]), r"array\(\[1\., 2\., 3\.\]\)"),
        (10**400, "10000"),
        ({}, r"\{\}"),
    ],
)
def test_what_is_no_score_is_named_with_its_row(value, shown):
    with pytest.raises(RewardError, match=rf"f\.py:f returned {shown}.* for d\.jsonl row 2 \(id p1\)\. A score is"):
        run(lambda **_: [0.0, value, 0.0])


def test_a_wrong_number_of_scores_is_refused():
    with pytest.raises(
        RewardError, match=r"returned 2 scores for 3 completions, the first of d\.jsonl row 1 \(id p0\)"
    ):
        run(lambda **_: [0.0, 1.0])
    with pytest.raises(RewardError, match=r"returned None and not a list"):
        run(lambda **_: None)
    with pytest.raises(RewardError, match=r"returned 0\.5 and not a list"):
        run(lambda **_: 0.5)


def test_a_row_that_makes_it_raise_is_an_error_and_the_others_count():
    def integers(completions, **_):
        return [float(int(text) >= 0) for text in completions]

    outcomes = run(integers)
    assert [(o.value, o.correct, o.kind) for o in outcomes] == [
        (1.0, True, "scored"),
        (0.0, False, "error"),
        (1.0, True, "scored"),
    ]
    assert outcomes[1].detail.startswith("ValueError: invalid literal for int() with base 10: 'one'")
    assert "(test_rewards_function.py line " in outcomes[1].detail


def test_raising_for_every_row_stops_everything():
    def broken(completions, **_):
        raise KeyError(completions[0])

    message = r"f\.py:f raised for each of 3 rows, first for d\.jsonl row 1 \(id p0\): KeyError: '0' \(test_.*\d\)"
    with pytest.raises(RewardError, match=message) as caught:
        run(broken)
    assert caught.value.__cause__.args == ("0",)


def test_a_contract_broken_while_rows_are_told_apart_is_reported():
    def odd(completions, **_):
        if len(completions) > 1:
            raise ValueError("no batches")
        return [1.0, 2.0]

    with pytest.raises(RewardError, match=r"returned 2 scores for 1 completions, the first of d\.jsonl row 1"):
        run(odd)


def test_a_function_that_cannot_take_a_batch_works_row_by_row():
    def single(completions, **_):
        if len(completions) > 1:
            raise ValueError("no batches")
        return [len(completions[0])]

    assert [o.value for o in run(single)] == [1.0, 3.0, 1.0]


def test_an_empty_batch_is_nothing():
    assert FunctionReward(lambda **_: 1 / 0, name="f")([], []) == []


def test_the_signature_is_checked_when_loading():
    message = (
        r"f\.py:f cannot be called with the keyword arguments prompts, completions, golds, rows: .*'prompts'.*kwargs"
    )
    with pytest.raises(RewardError, match=message):
        FunctionReward(lambda completions, golds: [], name="f.py:f")


def test_interrupting_is_not_an_error_of_a_row():
    def interrupted(**_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)


def test_load_function(write):
    write(
        """
        from dataclasses import dataclass
        from beside import LIMIT

        @dataclass
        class Score:
            value: float

        def short(completions, **_):
            return [Score(float(len(text) < LIMIT)).value for text in completions]
        """
    )
    write("LIMIT = 2", "beside.py")
    path = list(sys.path)
    reward = load_function("mine.py:short", correct_at=1.0)
    assert [o.correct for o in reward(PROMPTS, COMPLETIONS)] == [True, False, True]
    assert reward.check_golds([""]) == [None]
    reward.close()
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "'mine.py' does not name a function. Write it as path/to/file.py:function"),
        ("mine:short", "does not name a function"),
        ("mine.py:", "does not name a function"),
        ("mine.py:a b", "does not name a function"),
        ("gone.py:short", "there is no file gone.py"),
        ("mine.py:long", r"mine.py has no function 'long'. It has: short, other"),
        ("mine.py:NUMBER", r"'NUMBER' in mine.py is 5, which cannot be called"),
        ("broken.py:f", r"importing broken.py failed: ZeroDivisionError: division by zero \(broken.py line 3\)"),
        ("wrong.py:f", r"importing wrong.py failed: SyntaxError"),
        ("leaves.py:f", r"importing leaves.py failed: SystemExit: 3"),
        ("empty.py:f", r"empty.py has no function 'f'. It has: no functions at all"),
        ("mine.py:other", r"mine.py:other cannot be called with the keyword arguments"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_anything_starts(write, spec, message):
    write("NUMBER = 5\ndef short(**_): return []\ndef other(x): return []")
    write("\n\nf = 1 / 0", "broken.py")
    write("def f(:", "wrong.py")
    write("raise SystemExit(3)", "leaves.py")
    write("", "empty.py")
    with pytest.raises(RewardError, match=message):
        load_function(spec)
