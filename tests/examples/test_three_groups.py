"""The first example runs and says what the closed forms say."""

import runpy
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "01_three_groups.py"


def test_runs(capsys):
    runpy.run_path(str(PATH), run_name="__main__")
    printed = capsys.readouterr().out
    all_wrong, one_right, all_right = (part.splitlines() for part in printed.split("\n\n")[1:4])
    # G = 8: -1 / sqrt(9); then +1.7638 and -0.5040 (n = 9, C = 2), where GRPO has +2.4749 and -0.3536 (n = 8, C = 1).
    assert all_wrong[2].split() == ["grpo"] + ["0.000"] * 8
    assert all_wrong[3].split() == ["ngrpo"] + ["-0.333"] * 8
    assert one_right[2].split() == ["grpo", "2.475"] + ["-0.354"] * 7
    assert one_right[3].split() == ["ngrpo", "1.764"] + ["-0.504"] * 7
    assert all_right[2].split() == ["grpo"] + ["0.000"] * 8
    assert all_right[3].split() == ["ngrpo"] + ["0.000"] * 8
