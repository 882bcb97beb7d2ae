"""Golds against themselves in renderings that are equal by construction, and against mutations that are not."""

import random
from pathlib import Path

import pytest
from gold_variants import MUTATIONS, RENDERINGS, variants

from ngrpo.rewards.math import MathReward

GOLDS = [
    # Numbers.
    *("7", "-13", "0", "1", "250", "4096", "123456", "36,750", r"48,\!600", r"1{,}250", r"2,\!400,\!000"),
    *("0.4", "-2.75", ".125", "3.0", "6.25", r"\$8.40", r"\$1,\!500", r"35\%", r"62.5\%", r"14\frac{2}{7}\%"),
    # Fractions.
    *(r"\frac{3}{8}", r"-\frac{7}{4}", r"\frac{-5}{6}", r"\dfrac{9}{16}", r"\tfrac{2}{3}", r"\frac34", r"\frac 56"),
    *(
        r"\frac{17}6",
        r"\frac2{15}",
        r"\frac{1001}{2048}",
        "5/12",
        r"2\frac{3}{5}",
        r"-4\frac{1}{3}",
        r"0.\overline{27}",
    ),
    *(r"\frac{7}{3,\!125}", r"\frac{4}{1{,}001}"),
    # Roots, powers, constants.
    *(
        r"\sqrt{5}",
        r"3\sqrt2",
        r"-2\sqrt{7}",
        r"\frac{\sqrt{6}}{3}",
        r"\frac{5\sqrt3}2",
        r"4+\sqrt{11}",
        r"9-4\sqrt{5}",
    ),
    *(r"\sqrt[3]{4}", r"2\sqrt[4]{3}", r"\sqrt{2}+\sqrt{5}", r"\sqrt{10 + 2\sqrt{5}}", "2^{11}", "3^{-2}", "7^{2009}"),
    *(r"\frac{1}{2^{60}}", r"\frac{1}{1999!}", "12!", r"5 \times 10^{-4}", r"6\pi", r"\frac{\pi}{5}", r"\frac\pi 6"),
    *(r"144-36\pi", r"3 + \frac\pi 4", r"e^3", r"\frac{e-1}{2}", r"\log_3 7", r"\ln 5", r"\cos 40^\circ", r"\sin^2 x"),
    # Complex numbers.
    *("2-9i", "-6 + 5i", r"-3 + 8 i", r"\frac{1}{2} - \frac{\sqrt{3}}{2}i", "7i", r"\frac{4-i}{3}"),
    # Angles, units, time, bases.
    *(r"72^\circ", r"112.5^{\circ}", r"15\text{ cm}", r"24 \text{ square inches}", r"80\text{ m}^2", r"64\mbox{ cm}^3"),
    *(r"3\pi\text{ feet}", r"\frac{5}{2}\text{ hours}", r"9\text{ a.m.}", r"\text{4:15 p.m.}", "7:20", "2:5", "1 : 4"),
    *("110_2", "342_5", "20212_{3}", "3F_{16}", "7A5_{12}"),
    # Words and letters.
    *(
        r"\text{Tuesday}",
        r"\mbox{seven}",
        r"\text{Marta}",
        r"\text{(D)}",
        r"\text{B}",
        "C",
        r"\text{odd}",
        r"\text{March 9}",
    ),
    # Points, intervals, sets, lists.
    *("(3,-4)", r"\left(\frac{1}{2}, -5\right)", "(0,7,-2)", r"(2, \frac{2\pi}{3})", "(1,2),(4,-1)", "[-2,5)", "(0,9]"),
    *(r"(-\infty, 6]", r"\left[\frac{3}{4}, \infty\right)", r"(-\infty,-4)\cup(-4,\infty)", r"[1,2) \cup (3,5]"),
    *(
        r"\{2,5,11\}",
        r"\left\{ -1, \frac{3}{2} \right\}",
        r"\emptyset",
        "4,9",
        "-2, 7",
        r"-1, \frac{1}{3}",
        r"6\text{ or }8",
    ),
    *(r"2\pm\sqrt{3}", r"\pm 5", "2+3i, 2-3i", r"\sqrt{2}, -\sqrt{2}", "a=3, b=-8"),
    # Expressions, equations, inequalities.
    *("3x-7", "x^2-5x+8", "4t", "9s", "-y+2", "2ab+5c", "(x-2)(x+6)", "(n+1)^3", "12x^3y^2", "a + b - c", "m^2 + mn"),
    *(
        r"\frac{x+4}{2x-1}",
        r"\frac{3}{y}",
        r"\frac{n(n+1)}{2}",
        r"2 \tan t",
        r"x\sqrt{3}",
        "x = 11",
        r"y = \frac{2}{3}x - 5",
    ),
    *("4x - 3y + 10 = 0", "x^2 + y^2 = 36", "x<8", r"x \ge -3", r"2 < x < 9", r"-1 \le k \le 6"),
    # Matrices and vectors.
    *(r"\begin{pmatrix} 2 \\ -7 \end{pmatrix}", r"\begin{pmatrix} 1/4 \\ -3/4 \\ 2 \end{pmatrix}"),
    *(
        r"\begin{pmatrix} 3 & -1 \\ 0 & 5 \end{pmatrix}",
        r"\begin{pmatrix} \frac{1}{3} & 2 \\ -6 & \frac{4}{5} \end{pmatrix}",
    ),
    # Warts of real data: a full stop, a line break, space commands.
    *(r"\frac{8}{15}.", "\n\\frac{5}{9}\n", r"19\,", r"\!\sqrt{13}", r"60^\circ.", r"x \in [3,4]"),
]

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module", params=["exact path", "math-verify alone"])
def reward(request):
    reward = MathReward(timeout_s=5.0, num_workers=1, use_exact_path=request.param == "exact path")
    yield reward
    reward.close()


def misjudged(reward, golds, changes, *, expected):
    """Lines for the variants of the golds whose verdict is not the expected one, and how many were graded."""
    jobs = [(gold, name, text) for gold in golds for name, text in variants(gold, changes)]
    outcomes = reward.grade_pairs([(f"We find \\boxed{{{text}}}.", gold) for gold, _, text in jobs])
    lines = [
        f"{name}: gold {gold!r}, answer {text!r}: got {outcome.correct} ({outcome.kind}) {outcome.detail}".rstrip()
        for (gold, name, text), outcome in zip(jobs, outcomes, strict=True)
        if outcome.correct != expected
    ]
    return lines, len(jobs)


def test_every_gold_can_be_matched(reward):
    assert len(GOLDS) == len(set(GOLDS)) >= 120
    objections = reward.check_golds(GOLDS)
    assert [(gold, why) for gold, why in zip(GOLDS, objections, strict=True) if why] == []


def test_golds_match_themselves_however_they_are_written(reward):
    lines, graded = misjudged(reward, GOLDS, RENDERINGS, expected=True)
    assert not lines, "\n".join([f"{len(lines)} of {graded} equal answers were rejected:", *lines])


def test_mutated_golds_are_rejected(reward):
    lines, graded = misjudged(reward, GOLDS, MUTATIONS, expected=False)
    assert not lines, "\n".join([f"{len(lines)} of {graded} other answers were accepted:", *lines])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not beside the checkout")
def test_real_golds_match_themselves_and_not_their_mutations():
    """A sample of MATH; the whole of it is graded by benchmarks/verifiers.py."""
    import pandas as pd

    golds = [
        gold
        for name in ("math_train", "math_test")
        for gold in pd.read_parquet(REAL / f"{name}.parquet", columns=["answer"])["answer"]
        if gold.strip()
    ]
    sample = sorted(set(random.Random(4).sample(golds, 300)))
    reward = MathReward(timeout_s=5.0, num_workers=1)
    try:
        rejected, num_equal = misjudged(reward, sample, RENDERINGS, expected=True)
        accepted, num_other = misjudged(reward, sample, MUTATIONS, expected=False)
    finally:
        reward.close()
    assert len(rejected) <= 0.001 * num_equal, "\n".join(rejected)
    assert len(accepted) <= 0.001 * num_other, "\n".join(accepted)


@pytest.mark.parametrize(
    ("change", "gold", "text"),
    [
        ("decimal", r"\frac{-5}{8}", "-0.625"),
        ("decimal", r"\frac{1}{3}", None),
        ("decimal", r"\frac{1}{40}", "0.025"),
        ("slash", r"\frac{-5}{8}", "-5/8"),
        ("scaled", r"\dfrac{5}{8}", r"\frac{15}{24}"),
        ("mixed", r"-\frac{7}{4}", r"-1\frac{3}{4}"),
        ("mixed", r"\frac{3}{4}", None),
        ("shorthand", r"\frac{3}{4}+x", r"\frac34+x"),
        ("thousands", "2400000", r"2,\!400,\!000"),
        ("thousands", r"2,\!400", "2400"),
        ("thousands", "240", None),
        ("spaces", r"(-3,x-1)", "(-3, x - 1)"),
        ("spaces", r"-2x+  3=\text{no = }", r"-2x + 3 = \text{no = }"),
        ("loose spaces", r"2,\!400\text{ cm}^2", r"2,\!400 \text{ cm} ^ 2"),
        ("text command", r"\text{odd}", r"\mbox{odd}"),
        ("order", r"\left\{ -1, \frac{3}{2} \right\}", r"\{\frac{3}{2}, -1\}"),
        ("order", "(1,2),(4,-1)", "(4,-1), (1,2)"),
        ("order", "(1,2)", None),
        ("order", "36,750", None),
        ("order", r"11,\! 111,\! 100", None),
        ("sum order", "-y+2", "2-y"),
        ("sum order", "x^2-5x+8", "8+x^2-5x"),
        ("sum order", "(x-2)(x+6)", None),
        ("sum order", "y = x+1", None),
        ("sum order", "1+i.", None),
        ("stretching brackets", "[-2,5)", r"\left[ -2,5 \right)"),
        ("minus sign", "-6 + 5i", "\u22126 + 5i"),
        ("fraction style", r"\dfrac{1}{2}", r"\frac{1}{2}"),
        ("name", "7", "x = 7"),
        ("name", "7x", None),
        ("last digit", "19", "10"),
        ("last digit", r"80\text{ m}^2", r"81\text{ m}^2"),
        ("last digit", "1_7", None),
        ("last digit", "342_5", "342_6"),
        ("last digit", r"\frac{0}{7}", None),
        ("last digit", "0!", None),
        ("last digit", r"\sin 30^\circ", None),
        ("first digit", "910", "110"),
        ("leading sign", "0", None),
        ("leading sign", "0.5", "-0.5"),
        ("leading sign", "4x - 3y + 10 = 0", "-4x - 3y + 10 = 0"),
        ("leading sign", "x = -11", "x = 11"),
        ("leading sign", "x = 0", None),
        ("leading sign", r"\left(\frac{1}{2}, -5\right)", r"\left(-\frac{1}{2}, -5\right)"),
        ("leading sign", r"\pm 5", None),
        ("leading sign", "(-3)^2", None),
        ("leading sign", r"\text{odd}", None),
        ("inner sign", "144+x", "144-x"),
        ("exponent", r"x^9y^{2}", r"x^{10}y^{2}"),
        ("exponent", r"80\text{ m}^2", None),
        ("exponent", "1^5", None),
        ("exponent", r"3^{-2}", r"3^{-3}"),
    ],
)
def test_variants_change_what_they_say(change, gold, text):
    assert (RENDERINGS | MUTATIONS)[change](gold) == text
