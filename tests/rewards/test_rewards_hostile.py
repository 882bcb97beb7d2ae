"""Thousands of answers that no grader wants to see, under every profile.

None may hang, crash, touch a file, or be right. What hangs a worker costs this suite a start of another, so the costly
kinds are few; the profiles share the comparison, so only one meets them all.
"""

import random
import subprocess

import pytest

from ngrpo.rewards import MathReward, profiles

GOLDS = ("7919", "\\frac{7919}{\\sqrt{6007}}", "(7919, 6007]", "7919x+6007")
KINDS = {"scored", "unparsed", "timeout", "error"}
MANY = 100_000  # characters: enough to be noticed where time grows with the square

# What makes regular expressions and brace counters slow, by the megabyte.
FOOD = (
    *("0", "9", " ", "\n", "\t", "{", "}", "\\", "$", "(", ")", "[", "|", ",", ".", "-", "_", "^", "%", "<", "'", "a"),
    *(
        "{}",
        "\\{",
        "\\}",
        "\\\\",
        "$$",
        "\\(",
        "1,",
        "1.0",
        "10.00",
        "0.0",
        "1 2 ",
        "\\frac",
        "\\frac{",
        "\\sqrt",
        "^{",
    ),
    *("\\boxed", "\\boxed{", "\\boxed{}", "\\boxed{1", "\\boxed 1", "\\fbox{", "{\\boxed{", "\\boxed{1}}", "</think>"),
    *(
        "<think>",
        "<think></think>",
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "answer is",
        "The answer is ",
        "answer:",
    ),
    *(
        "he answer is $",
        "\\text{",
        "\\text{a",
        "\\left(",
        "\\begin{pmatrix}",
        "&",
        "\x00",
        "\u200f",
        "\ud800",
        "\u0661",
    ),
    *("e9", "1e9", "--", "**", "!", "!!", "1/", "/1", "=", "x=", "\\,", "\\!", "{,}", "\\mathrm{~", "degrees", "\\cup"),
)


def boxed(text):
    return f"So the answer is \\boxed{{{text}}}."


def nested(opening, middle, closing, depth):
    return opening * depth + middle + closing * depth


def costly_answers(chance):
    """What computer algebra may work on for ever: one of each kind."""
    a, b = chance.randint(3, 9), chance.randint(10**8, 10**9)
    yield from (
        nested("9^{", "9", "}", 2),
        nested(f"{a}^{{", "2", "}", 60),
        nested("(", str(a), "!)!", 3),
        nested("(", "9", ")^{9}", 12),
        f"{b}!",
        f"\\binom{{{b}}}{{{b // 2}}}",
        f"\\sum_{{k=1}}^{{{b}}} \\frac{{1}}{{k^2}}",
        f"\\prod_{{k=1}}^{{{b}}} k",
        f"(x+y+z+1)^{{{a}00}}",
        f"\\frac{{(x+1)^{{{b}}}}}{{(x+2)^{{{b}}}}}",
        "\\int_0^1 \\sin(\\cos(\\tan(x^{x^{x}}))) dx",
        "\\lim_{x \\to 0} \\frac{\\sin(x^{x})}{\\tan(x^{\\sin x})}",
        "\\sqrt{" + "+".join(f"\\sqrt{{{n}}}" for n in range(2, 40)) + "}",
        "\\{" + ",".join(f"\\sqrt{{{n}}}" for n in range(2, 50)) + "\\}",
        nested("\\sqrt{2+", "2", "}", 60),
        nested("\\frac{1}{1+", "x", "}", 40),
        nested("\\log_2(", "3", ")", 60),
        nested("\\sin(", "x", ")", 80),
        "+".join(f"x^{{{n}}}y^{{{n + 1}}}" for n in range(40)),
        "0." + "0" * 400 + "\\overline{" + "1" * 90 + "}",
        f"1e{b}",
        f"10^{{-{b}}}",
        f"7919 + 10^{{-{b}}}",
        f"\\gcd({b}!, {b - 1}!)",
    )


def strange_answers(chance, created):
    """A few hundred that are cheap: broken, disguised, or code."""
    for code in (
        f"open('{created}','w')",
        f"__import__('os').system('touch {created}')",
        f'eval(\'open("{created}","w")\')',
        f"exec('import os; os.mknod(\"{created}\")')",
        f"(lambda: open('{created}', 'w'))()",
        f"[].__class__.__base__.__subclasses__()[0]('{created}')",
        f"\\input{{{created}}}",
        f"\\immediate\\write18{{touch {created}}}",
        f"$(touch {created})",
        f"`touch {created}`",
        f"'; touch {created}; '",
        f"{{{{ open('{created}','w') }}}}",
        f"{{created.__class__}}{created}",
        "len('x' * 7919)",
        "7919 if True else 0",
        "exit()",
        "__import__('os')._exit(0)",
        "raise SystemExit",
        "sympify('7919')",
    ):
        yield from (code, f"\\text{{{code}}}", f"\\sqrt{{{code}}}")
    symbols = [
        *FOOD,
        "7919",
        "6007",
        "x",
        "+",
        "\\pi",
        "\\infty",
        "\\frac{1}{2}",
        "\\pm",
        "\\sqrt{2}",
        "i",
        "\\le",
        ";",
    ]
    for _ in range(200):
        yield "".join(chance.choices(symbols, k=chance.randint(1, 8)))
    for opening, middle, closing in (
        ("(", "1", ")"), ("[", "1", ")"), ("{", "1", "}"), ("\\{", "1", "\\}"), ("\\left(", "1", "\\right)"),
        ("\\frac{1}{", "2", "}"), ("\\sqrt{", "2", "}"), ("-", "1", ""), ("|", "1", "|"), ("\\text{", "a", "}"),
        ("x_{", "1", "}"), ("\\overline{", "1", "}"), ("\\boxed{", "1", "}"), ("\\mathbf{", "1", "}"), ("1,", "1", ""),
    ):  # fmt: skip
        yield from (nested(opening, middle, closing, depth) for depth in (1, 4, 9))
        yield nested(opening, middle, "", 9)
        yield nested("", middle, closing or "!", 9)


def completions_of(answers, chance):
    """Each in a box; and some in other places where an answer may be looked for."""
    for answer in answers:
        yield boxed(answer)
        yield chance.choice(
            [
                f"<think>\\boxed{{{answer}}}</think> \\boxed{{{answer}}}",
                f"<answer>{answer}</answer>",
                f"The answer is {answer}",
                f"The answer is ${answer}$.",
                f"\\boxed{{1}} no, \\boxed{{{answer}",
                answer,
            ]
        )


@pytest.fixture(params=profiles.names())
def reward(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its workers start here
    reward = MathReward(request.param, timeout_s=0.3)
    yield reward
    reward.close()
    assert list(tmp_path.iterdir()) == []


def check(outcomes, profile):
    assert {outcome.kind for outcome in outcomes} <= KINDS
    assert all(outcome.detail for outcome in outcomes if outcome.kind != "scored")
    if not profile.follows_paper:  # whose rules take any last number
        assert not any(outcome.correct or outcome.value for outcome in outcomes)


def test_strange_answers(reward, tmp_path):
    chance = random.Random(1)
    texts = list(completions_of(strange_answers(chance, tmp_path / "created"), chance))
    assert len(texts) > 600
    check(reward.grade_pairs([(text, chance.choice(GOLDS)) for text in texts]), reward.profile)


def test_costly_answers_and_those_who_wait_behind_them(reward):
    answers = list(costly_answers(random.Random(2)))
    if reward.profile.name != "strict":
        answers = answers[::6]
    innocent = [f"x+{number}\\sqrt{{3}}" for number in range(len(answers))]
    pairs = [(boxed(text), GOLDS[1]) for both in zip(answers, innocent, strict=True) for text in both]
    outcomes = reward.grade_pairs(pairs)
    check(outcomes, reward.profile)
    assert {outcome.kind for outcome in outcomes[::2]} >= {"scored", "timeout"}
    assert {outcome.kind for outcome in outcomes[1::2]} == {"scored"}


@pytest.mark.parametrize("form", ["@", "\\boxed{@", "\\boxed{@}", "The answer is @", "<think>@</think>@"])
def test_long_food_for_regular_expressions(reward, form):
    texts = [form.replace("@", food * (MANY // len(food))) for food in FOOD]
    check(reward.grade_pairs([(text, GOLDS[0]) for text in texts]), reward.profile)


def test_a_megabyte(reward):
    texts = [food * 500_000 + boxed(food) for food in ("9", "{", "\\boxed{", "answer is ", "</think>")]
    check(reward.grade_pairs([(text, GOLDS[0]) for text in texts]), reward.profile)


def test_memory_does_not_grow():
    """`benchmarks/grading.py --memory` does this with 50,000."""
    reward = MathReward(num_workers=1)

    def grade(start):
        pairs = [(boxed(f"{number}\\sqrt{{3}}"), f"{number}\\sqrt{{2}}") for number in range(start, start + 150)]
        check(reward.grade_pairs(pairs), reward.profile)
        return resident_kib(reward._pool.pids[0])

    grade(1)
    before = grade(1000)
    assert grade(2000) - before < 10_000
    reward.close()


def resident_kib(pid):
    listing = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True)
    return int(listing.stdout)
