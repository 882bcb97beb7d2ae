"""`MathReward`: outcomes, batches, the cache, golds. What is equal is tested with the parts, the pairs and the page."""

import os
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.rewards import math as math_rewards
from ngrpo.rewards import profiles
from ngrpo.rewards.math import MathReward, extract_answer, final_answer, grade
from ngrpo.rewards.pool import Pool, Reply
from ngrpo.types import Completion, Outcome, Prompt


@pytest.fixture(scope="module")
def reward():
    reward = MathReward(num_workers=1)
    yield reward
    reward.close()


@pytest.fixture
def sent(monkeypatch):
    """The calls that workers would get; each is answered with `different`."""
    calls = []

    def answer(_, batch):
        calls.extend(batch)
        return [Reply("ok", ["different", f"form of {call[1]}"]) for call in batch]

    monkeypatch.setattr(Pool, "map", answer)
    return calls


def boxed(answer):
    return f"We find \\boxed{{{answer}}}."


def completion(text):
    return Completion((), (), text, "eos")


PLAIN = [
    ("5", "5", True),
    ("5.0", "5", True),
    ("1,234", "1234", True),
    (r"\frac{2}{4}", r"\frac12", True),
    (" x^2 + 1 ", "x^2+1", True),
    ("336", r"336^\circ", True),
    (r"\text{Saturday}", r"\mbox{Saturday}", True),
    (r"\left(1, 2\right)", "(1,2)", True),
    ("2, 1", "1, 2", True),
    ("6", "5", False),
    ("500", "5", False),
    ("12346", "12345", False),
    ("0.333333", r"\frac{1}{3}", False),
    ("five", r"\mbox{four}", False),
    ("[1,2]", "(1,2)", False),
    ("10_3", "10_2", False),
]


@pytest.mark.parametrize(("answer", "gold", "correct"), PLAIN)
def test_plain_answers_need_no_worker(sent, answer, gold, correct):
    outcome = MathReward().grade(boxed(answer), gold)
    assert sent == []
    assert (outcome.correct, outcome.value, outcome.kind, outcome.rule) == (correct, float(correct), "scored", "boxed")
    assert outcome.extracted == answer.strip()
    assert outcome.detail == f"exact: {'equal' if correct else 'different'}"


def test_without_the_exact_path_everything_goes_to_the_workers(sent):
    reward = MathReward(use_exact_path=False)
    reward.grade_pairs([(boxed(answer), gold) for answer, gold, _ in PLAIN])
    assert [(call[0], call[1]) for call in sent] == [(gold, answer.strip()) for answer, gold, _ in PLAIN]
    assert {call[2] for call in sent} == {"strict"}


@pytest.mark.parametrize("gold", ["x+1", r"2\sqrt2", r"\sin x"])
def test_other_answers_go_to_math_verify(reward, gold):
    right = reward.grade(boxed(f"0+{gold}"), gold)
    assert (right.correct, right.value, right.kind, right.detail) == (True, 1.0, "scored", "math-verify: equal")
    wrong = reward.grade(boxed(f"1+{gold}"), gold)
    assert (wrong.correct, wrong.value, wrong.kind, wrong.detail) == (False, 0.0, "scored", "math-verify: different")


@pytest.mark.parametrize(
    ("text", "rule", "detail"),
    [
        ("The answer is 5.", "", r"no complete \boxed{...}"),
        (r"\boxed{5", "", r"no complete \boxed{...}"),
        (r"\fbox{5}", "", r"no complete \boxed{...}"),
        (r"<think>\boxed{5}</think> 5", "", r"no complete \boxed{...}"),
        (r"<think>\boxed{5}", "", "<think> is not closed"),
        (r"Answer: 5. \boxed{}", "boxed", "the box is empty"),
        (r"5 \boxed{ $ $ }", "boxed", "the box is empty"),
        (r"\boxed{" + "5" * 513 + "}", "boxed", "the box holds 513 characters, more than 512"),
        ("", "", r"no complete \boxed{...}"),
    ],
)
def test_no_usable_answer_is_unparsed_and_wrong(sent, text, rule, detail):
    expected = Outcome(value=0.0, correct=False, kind="unparsed", rule=rule, detail=detail)
    assert MathReward().grade(text, "5") == expected
    assert sent == []


def test_text_around_the_box_is_never_read(reward):
    # math-verify by itself takes the 7 or the 671 here.
    for text, gold in (
        (r"We get $7$, so \boxed{???}", "7"),
        (r"The final answer is 7. \boxed{\frac{1}{}", "7"),
        (r"$7$ \boxed{\text{see above}}", "7"),
        (r"It is $671$. \boxed{\frac{12}{5,\!525}}", "671"),
    ):
        assert not reward.grade(text, gold).correct


def test_a_batch_is_judged_once_for_each_pair_and_in_order(sent):
    reward = MathReward()
    pairs = [(boxed("x+2"), "x+1"), (boxed("5"), "5"), ("no box", "5"), (boxed("x+3"), "x+1"), (boxed("x+2"), "x+1")]
    outcomes = reward.grade_pairs([*pairs, (f"And {pairs[0][0]}", "x+1")])
    assert [call[1] for call in sent] == ["x+2", "x+3"]
    assert [outcome.kind for outcome in outcomes] == ["scored", "scored", "unparsed", "scored", "scored", "scored"]
    assert [outcome.correct for outcome in outcomes] == [False, True, False, False, False, False]
    assert outcomes[0] == outcomes[4] == outcomes[5]
    assert outcomes[3].normal_form == "form of x+3"


def test_comparisons_are_remembered(sent):
    reward = MathReward()
    first = reward.grade(boxed("x+2"), "x+1")
    assert reward.grade(boxed("x+2"), "x+1") == first
    reward.grade(boxed("x+2"), "x+3")
    assert [call[:2] for call in sent] == [("x+1", "x+2"), ("x+3", "x+2")]


def test_what_failed_is_not_remembered(monkeypatch):
    replies = [Reply("timeout", detail="late"), Reply("memory", detail="large"), Reply("ok", ["equal", "x"])]
    monkeypatch.setattr(Pool, "map", lambda _, calls: [replies.pop(0) for _ in calls])
    reward = MathReward()
    outcomes = [reward.grade(boxed("x+2"), "x+1") for _ in range(4)]
    assert [outcome.kind for outcome in outcomes] == ["timeout", "error", "scored", "scored"]
    assert [outcome.value for outcome in outcomes] == [0.0, 0.0, 1.0, 1.0]
    assert [outcome.detail for outcome in outcomes[:2]] == ["late", "large"]
    assert outcomes[0].extracted == "x+2"


def test_no_more_than_so_many_are_remembered(monkeypatch, sent):
    monkeypatch.setattr(math_rewards, "MAX_CACHED", 3)
    reward = MathReward()
    for number in (1, 2, 3, 1, 4, 1, 2):  # 2 is the oldest when 4 comes
        reward.grade(boxed(f"x+{number}"), "x")
    assert [call[1] for call in sent] == ["x+1", "x+2", "x+3", "x+4", "x+2"]


def test_right_answers_vote_for_their_gold_and_wrong_ones_for_what_they_are(reward):
    right = reward.grade_pairs([(boxed(answer), r"\frac{\sqrt{4}}{4}") for answer in (r"\frac{\sqrt{4}}{4}", "0.5")])
    assert len({outcome.normal_form for outcome in right}) == 1
    texts = ("0.5", r"\frac12", "2/4", r"\frac{\sqrt4}{4}")
    wrong = reward.grade_pairs([(boxed(answer), "7") for answer in texts])
    assert {outcome.normal_form for outcome in wrong} == {"1/2"}


GOLD_FAULTS = [
    ("", "the gold is empty"),
    ("  ", "the gold is empty"),
    ("$$", "the gold is empty"),
    (r"\boxed{}", "the gold is empty"),
    ("#### ", "the gold is empty"),
    ("x" * 513, "the gold has 513 characters and at most 512 are compared"),
    (r"\frac{1}{2", "the braces of the gold do not close"),
]


@pytest.mark.parametrize(("gold", "fault"), GOLD_FAULTS)
@pytest.mark.parametrize("profile", profiles.names())
def test_a_gold_that_is_no_answer_raises(sent, gold, fault, profile):
    reward = MathReward(profile)
    assert reward.check_golds([gold, "5"]) == [fault, None]
    with pytest.raises(DataError, match=rf"{fault}: .*nothing to compare"):
        reward.grade(boxed("5"), gold)
    with pytest.raises(DataError, match=rf"d\.jsonl row 9: {fault}\. Mend or leave out that row"):
        reward([Prompt("8", "?", (), gold, source="d.jsonl row 9")], [completion("")])


def test_only_golds_that_need_algebra_are_parsed_once_each(monkeypatch):
    calls = []

    def parse(_, batch):
        calls.extend(batch)
        return [
            Reply("ok", "") if call[0] != "y" else Reply("timeout", detail="no verdict within 1 s") for call in batch
        ]

    monkeypatch.setattr(Pool, "map", parse)
    faults = MathReward().check_golds(["5", "x", r"\frac12", "y", "x", "", "y"])
    assert calls == [("x", None, "strict"), ("y", None, "strict")]
    late = "the gold cannot be evaluated: no verdict within 1 s"
    assert faults == [None, None, None, late, None, "the gold is empty", late]


def test_a_gold_that_does_not_parse_is_compared_as_a_string(reward):
    gold = r"\text{if }x\text{ then }y"
    assert reward.check_golds([gold]) == [None]
    assert reward.grade(boxed(f" {gold}. "), gold).detail == "exact: equal"
    outcome = reward.grade(boxed(r"\text{if }x\text{ then }z"), gold)
    assert (outcome.correct, outcome.detail) == (False, "math-verify: different as strings")


def test_a_whole_solution_can_be_the_gold(sent):
    assert final_answer(r"As $2+3=5$, \boxed{5}.") == "5"
    assert final_answer(r"It is \boxed 5.") == "5"
    assert final_answer("He pays 2 + 3 = 5.\n#### 1,005") == "1,005"
    assert MathReward().grade(boxed("1005"), "He pays.\n#### 1,005").correct


def test_the_batch_of_a_step(reward):
    prompts = [Prompt(str(i), "?", (), gold, source=f"d.jsonl row {i + 1}") for i, gold in enumerate(["1", "2", "x+1"])]
    outcomes = reward(prompts, [completion(boxed(answer)) for answer in ("1", "1", "1+x")])
    assert [outcome.correct for outcome in outcomes] == [True, False, True]
    with pytest.raises(ValueError, match="zip"):
        reward(prompts, [])


def test_profiles_decide(reward):
    with pytest.raises(ConfigError, match="no verifier profile 'loose'"):
        MathReward("loose")
    assert [grade("The answer is 12346.", "12345", name).correct for name in profiles.names()] == [False, False, True]
    assert [grade("The answer is 25%.", "0.25", name).correct for name in profiles.names()] == [False, True, True]
    assert grade("The answer is 25.", "25", "paper").rule == "answer_is"


def test_integers_are_quick(reward):
    text = "Some reasoning. " * 50
    pairs = [(f"{text}\\boxed{{{number}}}", str(number)) for number in range(2000)]
    began = time.process_time()
    assert all(outcome.correct for outcome in reward.grade_pairs(pairs))
    assert time.process_time() - began < 0.5  # about 30 ms


def test_what_runs_past_the_deadline_is_a_timeout_and_the_next_answer_is_judged():
    reward = MathReward(timeout_s=0.3, num_workers=1)
    answer = r"\frac{" * 40 + "1" + "}{2}" * 40
    outcomes = reward.grade_pairs([(boxed(text), "x+1") for text in (answer, "1+x")])
    assert outcomes[0] == Outcome(0.0, False, "timeout", answer, "boxed", detail="no verdict within 0.3 s")
    assert outcomes[1].correct
    reward.close()


def test_numbers_that_nobody_can_write_out_take_no_time(reward):
    for answer in ("9^{9^{9^{9^9}}}", "100000000!", "10^{99999999}"):
        outcome = reward.grade(boxed(answer), "x+1")
        assert (outcome.kind, outcome.detail) == ("scored", "math-verify: different as strings")
        assert reward.grade(boxed(answer), answer).correct


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="\\{}()[]^_$%.,0123x+-*/= frac", max_size=30))
def test_nothing_that_a_model_writes_raises(reward, text):
    outcome = reward.grade(boxed(text), "x+1")
    assert outcome.value == float(outcome.correct)


def test_grading_works_in_threads(reward):
    outcomes = {}

    def work(name):
        outcomes[name] = [reward.grade(boxed(f"{name}+x"), f"x+{gold}").correct for gold in (name, name + 1)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {name: [True, False] for name in range(4)}


def test_a_killed_worker_is_replaced(reward):
    reward.grade(boxed("11+x"), "x+11")
    os.kill(reward._pool.pids[0], signal.SIGKILL)
    assert reward.grade(boxed("12+x"), "x+12").correct


def test_alarms_of_the_caller_are_left_alone(reward):
    # math-verify's own limits would cancel them.
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        assert reward.grade(boxed("13+x"), "x+13").correct
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [True]


def test_the_public_function_shares_its_workers():
    assert grade(r"\boxed{5}", "5") == Outcome(1.0, True, "scored", "5", "boxed", "5", "exact: equal")
    assert grade(r"\boxed{1+x}", "x+1").correct
    pids = math_rewards._shared_reward("strict")._pool.pids
    assert grade(r"\boxed{2+x}", "x+2").correct
    assert math_rewards._shared_reward("strict")._pool.pids == pids


def test_extract_answer_says_what_is_missing():
    assert extract_answer(r"\boxed{ 4 }") == ("4", "")
    assert extract_answer("4") == (None, r"no complete \boxed{...}")
    assert extract_answer("It is 4", "lenient") == ("4", "")
