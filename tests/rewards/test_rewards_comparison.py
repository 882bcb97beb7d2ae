"""The full path: what computer algebra decides, and what reaches it. Everything here runs in this process."""

import builtins
import re
import sys
import threading

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.rewards import comparison, profiles
from ngrpo.rewards.comparison import make_comparison, parse, same_objects
from ngrpo.rewards.exact import settle
from ngrpo.rewards.tidy import tidy

compare = make_comparison()

EQUAL = [
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("x+1", "1+x"),
    ("ab+c", "c+ba"),
    (r"2007+\frac\pi 2", r"\frac{\pi}{2}+2007"),
    (r"\frac \pi4 + 2 - \sqrt2", r"2-\sqrt{2}+\frac{\pi}{4}"),
    ("-2+7i", "-2 + 7 i"),
    (r"e^{i\pi}", "-1"),
    ("1024", "2^{10}"),
    ("3", r"\log_2 8"),
    (r"\frac{1}{2}", r"\cos 60^\circ"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    ("0", r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}"),
    ("720", "(3!)!"),
    ("2e-3", "-3+2e"),
    ("10", r"{5 \choose 2}"),
    (r"\sqrt{x^2}", "|x|"),
    ("y=2x+3", "2x-y+3=0"),
    ("x+y=3", "2x+2y=6"),
    ("x-3>0", "x>3"),
    (r"[0,1]\cup[1,2]", "[0,2]"),
    (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R}\setminus\{2\}"),
    (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\frac{1}{2004!}", r"\frac{2005}{2005!}"),
]
DIFFERENT = [
    (r"\frac{1}{2^{98}}", r"\frac{2}{2^{98}}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2005!}"),
    ("2^{2005}", "3^{2005}"),
    (r"10^{60}\pi", r"10^{60}\pi+1"),
    (r"e^{100}", r"e^{100}+1"),
    (r"\sqrt{2}", "1.41421356237309504880168872420969807856967"),
    ("(x+1)(x+5)", "(x+1)(x+2)"),
    ("(x+1)^5", "(x+1)^2"),
    (r"\sqrt{x^2}", "x"),
    ("2B", "2b"),
    ("x-y+3z+8=0", "5x-7y+11z+4=0"),
    ("x>3", "x<3"),
    ("x-3>0", "3-x>0"),
    ("4t", "4"),
    ("2000", "2e3"),  # Euler's number, in TeX
    ("0.002", "2e-3"),
    ("2s", "2"),
    ("x=y", "x=z"),
    ("1", r"\frac{0}{0}"),
    (r"\infty", r"-\infty"),
    ("[0,1]", r"[0,1)\cup(1,2]"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold, answer):
    assert compare(gold, answer, "strict")[0] == "equal"
    assert compare(answer, gold, "strict")[0] == "equal"


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold, answer):
    assert compare(gold, answer, "strict")[0] == "different"
    assert compare(answer, gold, "strict")[0] == "different"


def test_what_is_not_parsed_is_compared_as_a_string():
    gold = r"\text{if }x\text{ then }y"
    assert compare(gold, rf" {gold}.", "strict")[0] == "equal as strings"
    assert compare(gold, gold.replace("y", "z"), "strict")[0] == "different as strings"
    assert compare("5", "5 \\otimes", "strict")[0] == "different as strings"


def test_numbers_of_any_size_are_written_or_left():
    assert compare("x", "1/2", "strict")[1] == "1/2"
    assert compare("x", "5000!", "strict")[1] == "5000!"  # Python does not write an integer so long
    assert compare("x", "(x+1)(x+5)", "strict")[1] == "x**2 + 6*x + 5"
    assert compare("x", "(x+1)^{200}", "strict")[1] == "(x + 1)**200"


def test_equal_answers_have_one_normal_form():
    for first, *others in (
        ("1,2", "2, 1", r"\{1,2\}"),
        ("0.5", r"\frac12", r"\frac{\sqrt4}{4}"),
        (r"(-\infty,1)\cup(2,3)", r"(2,3)\cup(-\infty,1)"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x>3", "3<x"),
    ):
        assert {compare("7", other, "strict")[1] for other in others} == {compare("7", first, "strict")[1]}


def test_a_gold_alone_is_only_parsed():
    assert compare("x+1", None, "strict") == ""
    assert compare(r"\text{if }x\text{ then }", None, "strict") == ""


def test_the_value_of_a_leaf():
    assert parse("0.1") == sympy.Rational(1, 10)
    assert parse("i") == sympy.I
    assert parse("3\\frac12") == sympy.Rational(7, 2)
    assert parse("\\frac{") is None
    assert not same_objects(parse("1/0"), parse("1/0"))


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-1000, 1000, places=3).map(str),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(st.integers(1, 9), st.integers(1, 8)).map(lambda pair: rf"{pair[0]}\frac{{{pair[1]}}}{{9}}"),
    st.integers(1, 99).map(lambda period: rf"0.\overline{{{period}}}"),
    st.integers(1000, 10**9).map(lambda number: f"{number:,}"),
)
PARTS = st.lists(NUMBERS, min_size=2, max_size=3)
ANSWERS = st.one_of(
    NUMBERS,
    PARTS.map(", ".join),
    PARTS.map(lambda parts: f"({', '.join(parts)})"),
    PARTS.map(lambda parts: f"[{', '.join(parts)})"),
    PARTS.map(lambda parts: rf"\{{{', '.join(parts)}\}}"),
    NUMBERS.map(lambda number: f"x = {number}"),
    NUMBERS.map(lambda number: rf"{number}\%"),
    NUMBERS.map(lambda number: rf"{number} \text{{ cm}}"),
    st.tuples(st.integers(10, 99), st.integers(2, 4)).map(lambda pair: f"{pair[0]}_{pair[1]}"),
    st.sampled_from([r"\text{Monday}", "Monday", r"\text{(A)}", "A", "3:1", "6:2", "1:03 PM"]),
)


@given(ANSWERS, ANSWERS, st.sampled_from(["strict", "lenient"]))
@settings(deadline=None, max_examples=150)
def test_the_exact_path_says_what_the_full_path_says(gold, answer, name):
    for one, other in ((gold, answer), (gold, gold), (answer, answer.replace(" ", ""))):
        verdict = settle(tidy(one), tidy(other), profiles.get(name))
        if verdict is not None:
            assert compare(one, other, name)[0] == ("equal" if verdict else "different")


CODE = [
    "open('{}','w')",
    "__import__('os').system('touch {}')",
    r"\text{{open('{}','w')}}",
    "eval(\"open('{}','w')\")",
    "1+open('{}','w').write('1')",
    r"\sqrt{{exec('open(\"{}\",\"w\")')}}",
]


@pytest.mark.parametrize("name", profiles.names())
def test_only_digits_reach_what_evaluates_python(monkeypatch, tmp_path, name):
    reached = []
    parser = sys.modules["sympy.parsing.sympy_parser"]
    for module, function in ((parser, "parse_expr"), (builtins, "eval"), (builtins, "exec")):
        real = getattr(module, function)

        def watch(source, *rest, real=real, **options):
            if isinstance(source, str):
                reached.append(source)
            return real(source, *rest, **options)

        monkeypatch.setattr(module, function, watch)
    target = tmp_path / "created"
    for template in CODE:
        text = template.format(target)
        for gold in ("5", "x+1", "[1,2]", "x=3", "2.5"):
            comparison.parse.cache_clear()
            assert compare(gold, text, name)[0].startswith("different")
            assert compare(text, text, name)[0].startswith("equal")
    # The number of a token, what `parse_expr` makes of it before it evaluates that, and where it finds its names.
    allowed = re.compile(r"[0-9]+|Integer ?\([0-9]+ ?\)|from sympy import \*")
    assert {source for source in reached if not allowed.fullmatch(source)} == set()
    assert reached  # that they are watched at all
    assert not target.exists()


def test_it_sets_no_alarm():
    # In a thread that would raise; in the worker it would cancel the one that ends an orphan.
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(compare("x+1", "1+x", "strict")[0]))
    thread.start()
    thread.join()
    assert verdicts == ["equal"]


def test_parsed_leaves_are_kept_for_the_next_answer():
    comparison.parse.cache_clear()
    for number in range(5):
        compare(r"\sqrt{17}", f"{number}\\sqrt{{3}}", "strict")
    assert comparison.parse.cache_info().misses == 6
