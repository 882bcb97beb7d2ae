"""Terms of a shaped reward: what each gives, its bounds, and every mistake in its settings."""

import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, RewardError
from ngrpo.rewards import make_term
from ngrpo.rewards.function import RowFailure
from ngrpo.rewards.shaping import FunctionTerm
from ngrpo.types import Completion, Outcome, Prompt

RIGHT, WRONG = Outcome(1.0, True), Outcome(0.0, False)


def values(term, texts, *, prompt="?", outcomes=None, tokens=1):
    prompts = [Prompt(f"p{place}", prompt, (), "1", f"d.jsonl row {place + 1}") for place in range(len(texts))]
    completions = [Completion((7,) * tokens, (), text, "eos") for text in texts]
    return term(prompts, completions, outcomes or [RIGHT] * len(texts))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"so \boxed{5}.", 1.0),
        (r"<think>\boxed{4}?</think> \boxed{5}", 1.0),
        (r"\boxed{\frac{1}{2}}", 1.0),
        (r"\boxed{5} and \boxed{", 1.0),
        (r"\boxed{4} \boxed{5}", 0.0),
        (r"\boxed{\boxed{5}}", 0.0),
        (r"<think>\boxed{4}</think> 5", 0.0),
        (r"<think>\boxed{4}", 0.0),
        (r"\boxed{5", 0.0),
        (r"\boxed 5", 1.0),
        (r"\boxed{\boxed 5}", 0.0),
        (r"\boxed 4 \boxed 5", 0.0),
        ("5", 0.0),
        ("", 0.0),
    ],
)
def test_one_box(text, value):
    assert values(make_term("one_box", {}), [text]) == [value]


@pytest.mark.parametrize(
    ("prompt", "text", "value"),
    [
        ("?", "<think>easy</think> 5", 1.0),
        ("?", "\n<think>\neasy\n</think>\n5", 1.0),
        ("? <think>\n", "easy</think> 5", 1.0),
        ("? <think>", "<think>easy</think> 5", 0.0),
        ("?", "easy</think> 5", 0.0),
        ("?", "<think>easy</think>", 0.0),
        ("?", "<think> </think> 5", 0.0),
        ("?", "5 <think>easy</think>", 0.0),
        ("?", "<think>a</think><think>b</think>5", 0.0),
        ("?", "</think><think>", 0.0),
        ("?", "", 0.0),
    ],
)
def test_think_tags(prompt, text, value):
    assert values(make_term("think_tags", {}), [text], prompt=prompt) == [value]


def test_regex_is_searched_anywhere():
    term = make_term("regex", {"pattern": r"(?s)\AStep 1.*####\s*-?\d+\Z"})
    assert values(term, ["Step 1\n#### 12", "Step 1\n#### 12 ", "No. Step 1\n#### 12"]) == [1.0, 0.0, 0.0]
    assert values(make_term("regex", {"pattern": "b"}), ["abc", "a"]) == [1.0, 0.0]


def test_a_pattern_that_takes_for_ever_is_a_failure_of_that_row(monkeypatch):
    monkeypatch.setattr("ngrpo.rewards.shaping.PATTERN_DEADLINE_S", 0.05)
    first, second = values(make_term("regex", {"pattern": r"(a|a)*b|(a+)+$c"}), ["a" * 60, "b"])
    assert (first, second) == (RowFailure("the pattern took more than 0.05 s over 60 characters"), 1.0)


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0.0), (10, 0.0), (11, -0.2), (12, -0.4), (15, -1.0), (16, -1.0), (10_000, -1.0)]
)
def test_length(tokens, value):
    term = make_term("length", {"budget_tokens": 10, "span_tokens": 5})
    found = values(term, ["x"], tokens=tokens)
    assert found == [value]
    assert str(found[0]) != "-0.0"


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 700))
@settings(deadline=None)
def test_length_is_the_soft_overlong_punishment_of_dapo(budget, span, tokens):
    """The same numbers as objectives/transforms.OverlongPenalty gives, which is a parameter of dapo."""
    torch = pytest.importorskip("torch")
    from ngrpo.objectives import RolloutFacts
    from ngrpo.objectives.batch import RewardBatch
    from ngrpo.objectives.transforms import OverlongPenalty

    batch = RewardBatch.of("dapo", [0.0], [0], [False], RolloutFacts(completion_tokens=torch.tensor([tokens])))
    penalty = OverlongPenalty(max_tokens=budget + span, buffer_tokens=span, penalty=1.0)(batch).item()
    assert values(make_term("length", {"budget_tokens": budget, "span_tokens": span}), ["x"], tokens=tokens) == [
        penalty
    ]


@given(st.text(alphabet=r"<think>/\boxed{} 5" + "\0", max_size=50), st.integers(0, 40))
@settings(deadline=None)
def test_terms_stay_within_their_bounds_whatever_is_written(text, tokens):
    for name, params in (
        ("one_box", {}),
        ("think_tags", {}),
        ("regex", {"pattern": "b"}),
        ("length", {"budget_tokens": 4, "span_tokens": 9}),
    ):
        term = make_term(name, params)
        (value,) = values(term, [text], tokens=tokens)
        assert term.low <= value <= term.high


def test_a_function_gets_what_a_reward_function_gets_and_the_labels():
    seen = {}

    def brief(**batch):
        seen.update(batch)
        return np.array([0.5, -1.0], dtype=np.float32)

    assert values(FunctionTerm(brief, name="f.py:brief"), ["a", "b"], outcomes=[RIGHT, WRONG]) == [0.5, -1.0]
    assert seen == {
        "prompts": ["?", "?"],
        "completions": ["a", "b"],
        "golds": ["1", "1"],
        "rows": [{}, {}],
        "correct": [True, False],
    }


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -float("inf"), "0.5", None, (0.5, True), [], 1.5, -1.01, 10**400, {}]
)
def test_what_is_no_term_is_named_with_its_row(bad):
    term = FunctionTerm(lambda **_: [0.0, bad], name="f.py:f")
    message = (
        r"^shaping function f\.py:f returned .* for d\.jsonl row 2 \(id p1\)\. A term is a finite number from -1 to 1"
    )
    with pytest.raises(RewardError, match=message):
        values(term, ["a", "b"])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned None and not a list"),
        (0.5, r"returned 0\.5 and not a list"),
        ([0.5], "returned 1 scores for 2 completions, the first of d.jsonl row 1"),
        ("no", "returned 'n' for d.jsonl row 1"),
    ],
)
def test_what_is_no_list_of_terms_is_named(result, message):
    with pytest.raises(RewardError, match=f"shaping function f.py:f {message}"):
        values(FunctionTerm(lambda **_: result, name="f.py:f"), ["a", "b"])


def test_a_row_that_makes_it_raise_is_a_failure_of_that_row():
    term = FunctionTerm(lambda completions, **_: [1 / len(text) for text in completions], name="f.py:f")
    found = values(term, ["ab", "", "abcd"])
    assert [found[0], found[2]] == [0.5, 0.25]
    assert found[1].detail.startswith("ZeroDivisionError: division by zero (test_rewards_shaping.py line ")


def test_a_generator_that_raises_halfway_is_told_by_its_row():
    def lazy(completions, **_):
        for text in completions:
            yield float(int(text))

    found = values(FunctionTerm(lazy, name="f.py:f"), ["1", "x"])
    assert found[0] == 1.0
    assert found[1].detail.startswith("ValueError: invalid literal")


def test_raising_for_every_row_stops_everything():
    term = FunctionTerm(lambda **_: 1 / 0, name="f.py:f")
    with pytest.raises(
        RewardError, match=r"shaping function f\.py:f raised for each of 2 rows, first for d\.jsonl row 1"
    ):
        values(term, ["a", "b"])
    assert values(term, []) == []


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "terms.py").write_text(
        textwrap.dedent(
            """
            def brief(completions, **_):
                return [-len(text) / 10 for text in completions]

            def narrow(completions):
                return []
            """
        )
    )
    return "terms.py"


def test_a_function_is_loaded_from_a_file(file):
    term = make_term(f"{file}:brief", {"low": -5, "high": 0})
    assert (term.low, term.high) == (-5.0, 0.0)
    assert values(term, ["abc", "x" * 40]) == [-0.3, -4.0]
    with pytest.raises(RewardError, match=r"set params\.low and params\.high"):
        values(term, ["x" * 60])


@pytest.mark.parametrize(
    ("error", "name", "params", "message"),
    [
        (
            ConfigError,
            "lenght",
            {},
            "'lenght' is none of one_box, think_tags, regex, length, coin, or path/to/file.py:function",
        ),
        (ConfigError, "one_box", {"n": 1}, "reward.shaping 'one_box' has no parameter 'n'. It has: none"),
        (ConfigError, "length", {}, "needs params.budget_tokens. Its parameters: budget_tokens, span_tokens"),
        (ConfigError, "length", {"budget_tokens": 4}, "needs params.span_tokens"),
        (
            ConfigError,
            "length",
            {"budget_tokens": 4, "span_tokens": 2.5},
            "params.span_tokens must be a whole number, got 2.5",
        ),
        (ConfigError, "length", {"budget_tokens": True, "span_tokens": 2}, "must be a whole number, got True"),
        (
            ConfigError,
            "length",
            {"budget_tokens": 4, "span_tokens": 0},
            "'length': budget_tokens must be 0 or more and",
        ),
        (ConfigError, "length", {"budget_tokens": -1, "span_tokens": 1}, "got -1 and 1"),
        (ConfigError, "regex", {"pattern": 3}, "params.pattern must be text, got 3"),
        (ConfigError, "regex", {"pattern": "(a"}, r"pattern '\(a' is no regular expression: missing \)"),
        (ConfigError, "terms.py:brief", {"weight": 1}, "has no parameter 'weight'. It has: low, high"),
        (ConfigError, "terms.py:brief", {"low": "x"}, "params.low must be a number, got 'x'"),
        (ConfigError, "terms.py:brief", {"low": 2}, "low = 2 is above high = 1"),
        (RewardError, "gone.py:brief", {}, "the name in reward.shaping = 'gone.py:brief': there is no file gone.py"),
        (RewardError, "terms.py:long", {}, "terms.py has no function 'long'. It has: brief, narrow"),
        (RewardError, "terms.py:narrow", {}, "cannot be called with the keyword arguments .*correct"),
    ],
)
def test_mistakes_in_settings_are_named(file, error, name, params, message):
    with pytest.raises(error, match=message):
        make_term(name, params)
