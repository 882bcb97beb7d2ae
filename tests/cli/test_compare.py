"""`ngrpo compare` as the shell sees it."""

import json

import pytest

SETTINGS = {"model": "m", "data": "ten", "fingerprint": "f", "num_samples": 4, "temperature": 0.6, "ks": []}


def write_evaluation(folder, correct, **changes):
    """An evaluation folder of 4 samples per problem; `correct` is problem -> correct ones."""
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps({"settings": SETTINGS | changes}))
    problems = [{"prompt": name, "gold": f"{name} = 1", "problem": name} for name in correct]
    samples = [
        {"prompt": name, "sample": sample, "correct": sample < count, "kind": "scored", "normal_form": "1"}
        for name, count in correct.items()
        for sample in range(4)
    ]
    for name, rows in (("problems.jsonl", problems), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def two(tmp_path):
    first = write_evaluation(tmp_path / "trained", {f"p{place}": 3 for place in range(12)} | {"q": 0})
    second = write_evaluation(tmp_path / "base", {f"p{place}": 0 for place in range(12)} | {"q": 1}, temperature=1.0)
    return first, second


def test_the_table_and_what_differs(ngrpo, two):
    told = ngrpo("compare", *two)
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == "ten: 13 problems"
    assert lines[1].startswith("  A  ") and lines[1].endswith("trained  (m, 4 samples per problem)")  # noqa: PT018
    assert "    temperature: 0.6 and 1.0" in lines
    (row,) = [line for line in lines if line.startswith("pass@1")]
    # 36 of 52 against 1 of 52.
    assert row.split()[1:4] == ["69.2", "1.9", "+67.3"]
    assert row.rstrip().endswith("A is better")
    assert "A higher on 12, equal on 0, lower on 1 (exact two-sided sign test, p = 0.0034)" in told.out
    assert "Problems that A solved and B never did: 12" in lines
    assert "  'q'  A 0/4  B 1/4  gold 'q = 1'" in lines
    assert "  and 2 more (--show, --json)" in lines
    assert sum(line.startswith("  'p") for line in lines) == 10


def test_zero_inside_is_not_established(ngrpo, two):
    told = ngrpo("compare", two[0], two[0])
    rows = [line for line in told.out.splitlines() if line.startswith(("pass@", "Pass@", "maj@"))]
    assert len(rows) == 6
    assert all(row.rstrip().endswith("not established") for row in rows)
    assert "DIFFER" not in told.out


def test_json_has_every_problem_that_changed_side(ngrpo, two):
    (found,) = json.loads(ngrpo("compare", *two, "--json", "--show", 1).out)
    assert len(found["only_first_solved"]) == 12
    assert found["only_first_solved"][0] == {
        "prompt": "p0", "gold": "p0 = 1", "num_correct": [3, 0], "num_samples": [4, 4],
    }  # fmt: skip
    assert found["quantities"]["pass@1"]["is_established"] is True
    assert found["differing"] == ["temperature: 0.6 and 1.0"]


def test_the_figure_is_drawn_whatever_names_hold(ngrpo, two, tmp_path):
    odd = two[0].rename(two[0].with_name("_a$b"))
    told = ngrpo("compare", odd, two[1], "--plot", tmp_path / "figure.png", "--json")
    assert told.code == 0, told.err
    assert told.err == f"wrote {tmp_path / 'figure.png'}\n"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    json.loads(told.out)


def test_data_sets_of_two_folders(ngrpo, tmp_path):
    for side in ("a", "b"):
        for name in ("amc", "math"):
            write_evaluation(tmp_path / side / name, {"p": 1, "q": 2}, data=name)
    told = ngrpo("compare", "a", "b", "--plot", "both.png")
    assert told.out.startswith("amc: 2 problems\n")
    assert "\nmath: 2 problems\n" in told.out
    assert "wrote both.png" in told.out


def test_other_problems(ngrpo, refused, two, tmp_path):
    other = write_evaluation(tmp_path / "other", {"p0": 1, "z": 2})
    assert "1 are in both, 12 only in the first, 1 only in the second" in refused("compare", two[0], other)
    told = ngrpo("compare", two[0], other, "--shared")
    assert "left out: 12 problems that only A has, 1 that only B has" in told.out


def test_mistakes_are_refused(refused, two, tmp_path):
    assert "holds no evaluation" in refused("compare", two[0], tmp_path / "nothing")
    assert "must name a .png file in a folder that exists" in refused("compare", *two, "--plot", "figure.pdf")
    assert "must name a .png file in a folder that exists" in refused("compare", *two, "--plot", "no/figure.png")
