import os
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import DataError
from ngrpo.rewards import math as math_rewards
from ngrpo.rewards.math import MathReward, extract_answer, final_answer, grade, make_comparison
from ngrpo.rewards.worker import Reply
from ngrpo.types import Completion, Outcome, Prompt


@pytest.fixture(scope="module")
def reward():
    reward = MathReward(timeout_s=10.0)
    yield reward
    reward.close()


@pytest.fixture
def no_worker(monkeypatch):
    """Grading that needs math-verify fails here."""
    monkeypatch.setattr(math_rewards.Worker, "call", lambda *_: pytest.fail("math-verify was asked"))


def boxed(answer):
    return f"We find \\boxed{{{answer}}}."


def completion(text):
    return Completion((), (), text, "eos")


RIGHT_AT_ONCE = [
    ("5", "5"),
    ("5.0", "5"),
    ("1,234", "1234"),
    (r"\frac{2}{4}", r"\frac12"),
    ("0.5", r"\dfrac{1}{2}"),
    ("-3/4", r"-\frac{3}{4}"),
    (r" x^2 + 1 ", "x^2+1"),
    ("336", r"336^\circ"),
    (r"\text{Saturday}", r"\mbox{Saturday}"),
    ("saturday", r"\mbox{Saturday}"),
    (r"\$5", "5"),
    (r"\left(1, 2\right)", "(1,2)"),
]
WRONG_AT_ONCE = [
    ("6", "5"),
    ("500", "5"),
    ("0.05", "5"),
    ("12346", "12345"),  # no relative tolerance
    ("0.333333", r"\frac{1}{3}"),
    ("-5", "5"),
    ("1.2", "12"),
    (r"\text{seat}", r"\text{east}"),  # as products of letters they would be equal
    ("five", r"\mbox{four}"),
]
RIGHT = [
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("1+x", "x+1"),
    ("ba+c", "ab+c"),
    ("2, 1", "1, 2"),  # lists come in any order
    (r"2\sqrt2", r"2\sqrt{2}"),
    (r"\begin{pmatrix} 1 \\ 0.5 \end{pmatrix}", r"\begin{pmatrix} 1 \\ \frac{1}{2} \end{pmatrix}"),
    ("2^{10}", "1024"),
    (r"\text{(C)}", r"\text{C}"),
    (r"5 \text{ cm}", "5"),
    (r"10\%", "0.1"),
]
WRONG = [
    ("[1,2]", "(1,2)"),
    ("1, 3", "1, 2"),
    ("(2, 1)", "(1, 2)"),
    ("(x+1)(x+2)", "(x+1)(x+5)"),
    ("x>3", "x<3"),
    ("x-y+3z+8=0", "5x-7y+11z+4=0"),
    ("y", "x"),
    (r"\frac{12}{5,\!525}x", "671"),
    ("???", "7"),
    ("1 2", "12"),
]


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("answer", "gold", "correct"), [(*c, True) for c in RIGHT_AT_ONCE] + [(*c, False) for c in WRONG_AT_ONCE]
)
def test_plain_answers_need_no_algebra(reward, answer, gold, correct):
    outcome = reward.grade(boxed(answer), gold)
    assert (outcome.correct, outcome.value, outcome.kind) == (correct, float(correct), "scored")
    assert outcome.extracted == answer.strip()


@pytest.mark.parametrize(("answer", "gold", "correct"), [(*c, True) for c in RIGHT] + [(*c, False) for c in WRONG])
def test_other_answers_go_to_math_verify(reward, answer, gold, correct):
    outcome = reward.grade(boxed(answer), gold)
    assert (outcome.correct, outcome.value, outcome.kind) == (correct, float(correct), "scored")
    assert outcome.detail.startswith("math-verify: ")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("The answer is 5.", r"no complete \boxed{...}"),
        ("The final answer is $5$. I hope it is correct.", r"no complete \boxed{...}"),
        (r"\boxed{5", r"no complete \boxed{...}"),
        (r"\fbox{5}", r"no complete \boxed{...}"),
        (r"<think>\boxed{5}</think> 5", r"no complete \boxed{...}"),
        (r"<think>\boxed{5}", "<think> is not closed"),
        (r"Answer: 5. \boxed{}", "the box is empty"),
        (r"5 \boxed{ $ $ }", "the box is empty"),
        (r"\boxed{" + "5" * 513 + "}", "the box holds 513 characters, more than 512"),
        ("", r"no complete \boxed{...}"),
    ],
)
@pytest.mark.usefixtures("no_worker")
def test_no_usable_box_is_unparsed_and_wrong(reward, text, detail):
    assert reward.grade(text, "5") == Outcome(value=0.0, correct=False, kind="unparsed", detail=detail)


@pytest.mark.usefixtures("no_worker")
def test_the_last_complete_box_outside_of_thought_counts(reward):
    assert reward.grade(r"First \boxed{3}, but rechecking gives \boxed{4}.", "4").correct
    assert not reward.grade(r"First \boxed{4}, but rechecking gives \boxed{3}.", "4").correct
    assert reward.grade(r"<think>\boxed{3}</think>\boxed{4}", "4").correct
    assert reward.grade(r"\boxed{4}<think>\boxed{3}</think>", "4").correct


def test_text_around_the_box_is_never_read(reward):
    # math-verify by itself takes the 7 here.
    for text in (
        r"We get $7$, so \boxed{???}",
        r"The final answer is 7. \boxed{\frac{1}{}",
        r"$7$ \boxed{\text{see above}}",
    ):
        assert not reward.grade(text, "7").correct


@pytest.mark.parametrize("gold", ["", "  ", "$$", r"\boxed{}", "#### "])
def test_an_empty_gold_raises(reward, gold):
    with pytest.raises(DataError, match=r"the gold is empty: .*nothing to compare"):
        reward.grade(boxed("5"), gold)
    assert reward.check_gold(gold) == "the gold is empty"


def test_a_gold_that_is_no_answer_raises(reward):
    assert reward.check_gold("x" * 513) == "the gold has 513 characters and at most 512 are compared"
    assert reward.check_gold("x" * 512) is None


def test_a_gold_that_does_not_parse_is_compared_as_a_string(reward):
    gold = r"\frac{7}{5} + \frac{1}{5} i."
    assert reward.check_gold(gold) is None
    assert reward.grade(boxed(r"\dfrac{7}{5}+\frac{1}{5} i"), gold).correct
    outcome = reward.grade(boxed(r"\frac{7}{5} + \frac{2}{5} i"), gold)
    assert (outcome.correct, outcome.detail) == (False, "math-verify: the gold does not parse")


def test_a_whole_solution_can_be_the_gold(reward):
    assert final_answer(r"As $2+3=5$, \boxed{5}.") == "5"
    assert final_answer("He pays 2 + 3 = 5.\n#### 1,005") == "1,005"
    assert reward.grade(boxed("1005"), "#### 1,005").correct


def test_a_batch_is_judged_in_order_and_a_bad_gold_is_named(reward):
    prompts = [Prompt(str(i), "?", (), gold, source=f"d.jsonl row {i + 1}") for i, gold in enumerate(["1", "2", "x+1"])]
    texts = [boxed("1"), boxed("1"), boxed("1+x")]
    outcomes = reward(prompts, list(map(completion, texts)))
    assert [outcome.correct for outcome in outcomes] == [True, False, True]
    with pytest.raises(DataError, match=r"d\.jsonl row 9: the gold is empty"):
        reward([Prompt("8", "?", (), " ", source="d.jsonl row 9")], [completion("")])


def test_thousand_integers_are_quick(reward):
    text = "Some reasoning. " * 50
    began = time.process_time()
    outcomes = [reward.grade(f"{text}\\boxed{{{number}}}", str(number)) for number in range(1000)]
    assert all(outcome.correct for outcome in outcomes)
    assert time.process_time() - began < 0.05  # about 5 ms in truth


HOSTILE = ["9^{9^{9^{9^9}}}", "100000000!", r"\frac{" * 40 + "1" + "}{2}" * 40]


def test_towers_of_powers_end_at_the_deadline():
    reward = MathReward(timeout_s=1.0)
    reward.grade(boxed("x+2"), "x+1")  # started
    for answer in HOSTILE:
        began = time.monotonic()
        outcome = reward.grade(boxed(answer), "x+1")
        assert time.monotonic() - began < 8.0, answer  # the deadline, and a new worker for the one before
        assert outcome == Outcome(0.0, False, "timeout", answer, "no verdict within 1 s")
    assert reward.grade(boxed("1+x"), "x+1").correct
    reward.close()


@pytest.mark.parametrize(
    "answer",
    [
        "1" * 100_000,
        "{" * 10_000 + "1" + "}" * 10_000,
        "5\x00",
        "\u200f42\u202e",
        "\ud800",
        "\\",
        "%",
        "}{",
        r"\left[",
        r"\text{" * 20 + "}" * 20,
        "1/0",
        "\n" * 300,
        r"\input{/etc/passwd}",
        r"\boxed",
    ],
)
def test_odd_text_is_merely_wrong(reward, answer):
    outcome = reward.grade(boxed(answer), "x+1")
    assert (outcome.correct, outcome.value) == (False, 0.0)


def test_no_text_is_executed(reward, tmp_path):
    target = tmp_path / "created"
    for template in (
        "open('{}','w')",
        "__import__('os').system('touch {}')",
        r"\text{{open('{}','w')}}",
        "eval(\"open('{}','w')\")",
        r"\write18{{touch {}}}",
        "1+open('{}','w').write('1')",
    ):
        for gold in ("5", "x+1", "[1,2]"):
            assert not reward.grade(boxed(template.format(target)), gold).correct
    assert not target.exists()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="\\{}()[]^_$%.,0123x+-*/= frac", max_size=30))
def test_nothing_that_a_model_writes_raises(reward, text):
    outcome = reward.grade(boxed(text), "x+1")
    assert outcome.value == float(outcome.correct)


def test_grading_works_in_threads(reward):
    outcomes = {}

    def work(name):
        outcomes[name] = [reward.grade(boxed("1+x"), gold).correct for gold in ("x+1", "x+2")]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {name: [True, False] for name in range(4)}


def test_a_killed_worker_is_replaced(reward):
    reward.grade(boxed("1+x"), "x+1")
    os.kill(reward._worker.pid, signal.SIGKILL)
    assert reward.grade(boxed("1+x"), "x+1").correct


def test_a_worker_that_keeps_dying_is_an_error_not_an_exception(monkeypatch, reward):
    monkeypatch.setattr(reward._worker, "_call_once", lambda _: Reply("died", detail="gone"))
    assert reward.grade(boxed("1+x"), "x+1") == Outcome(0.0, False, "error", "1+x", "gone")


def test_math_verify_itself_sets_no_alarm():
    # In a thread that would raise; in the worker it would cancel the alarm that ends an orphan.
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(make_comparison()("x+1", "1+x")))
    thread.start()
    thread.join()
    assert verdicts == ["equal"]


def test_alarms_of_the_caller_are_left_alone(reward):
    # math-verify's own limits would cancel them.
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        assert reward.grade(boxed("1+x"), "x+1").correct
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [True]


def test_the_public_function_shares_one_worker():
    assert grade(r"\boxed{5}", "5") == Outcome(1.0, True, "scored", "5", "equal strings")
    assert grade(r"\boxed{1+x}", "x+1").correct
    pid = math_rewards._shared_reward()._worker.pid
    assert grade(r"\boxed{2+x}", "x+2").correct
    assert math_rewards._shared_reward()._worker.pid == pid


def test_extract_answer_says_what_is_missing():
    assert extract_answer(r"\boxed{ 4 }") == ("4", "")
    assert extract_answer("4") == (None, r"no complete \boxed{...}")
