"""The fourth example runs, and shows what it says."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from trl_helpers import GROUP  # noqa: F401  (skips where TRL is not installed)

PATH = Path(__file__).parents[2] / "examples" / "04_trl.py"

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def test_both_trainers_run_and_the_census_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(PATH), "--num-steps", "8", "--folder", str(tmp_path)])
    runpy.run_path(str(PATH), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"TRL's GRPO +mean reward 0\.\d\d at first", printed)
    kinds = re.search(r"NGRPO's first generation: (\d+)% all wrong, (\d+)% mixed, (\d+)% all right", printed)
    assert abs(sum(map(int, kinds.groups())) - 100) <= 1
    assert int(kinds[1]) > 50
