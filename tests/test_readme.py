"""Every block of the README runs, as a new user would run it: in its order, in one empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_every_block_is_of_a_kind_that_is_checked():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "toml", "text"}


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([\w-]+)", "\n".join(text for kind, text in BLOCKS if kind == "bash"), re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"`((?:docs|examples|src)/[\w/.]+)`", README) + re.findall(r"\]\((docs/[\w.]+)\)", README):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_blocks_run_in_their_order(tmp_path):
    rows = [{"question": f"{number}+1=", "answer": str(number + 1)} for number in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"toml": "run.toml", "python": "reward.py"}
    programs = []
    for kind, text in BLOCKS:
        if kind in files and (kind == "toml" or text.startswith("def score")):
            (tmp_path / files[kind]).write_text(text)
        elif kind == "python":
            programs.append([sys.executable, "-c", text])
        elif kind == "bash":
            # `make` has its own test above; activating an environment is what running this Python is.
            lines = [line for line in text.splitlines() if not line.startswith(("make ", "source "))]
            programs += [["bash", "-c", line.split("  #")[0]] for line in lines]
    assert len(programs) > 10
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NGRPO_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # Commands stand where they are explained, which is not always after what they need: my/model is made first.
    programs.sort(key=lambda program: "lab random" not in program[-1])
    for program in programs:
        done = subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{program[-1]}\n{done.stdout}\n{done.stderr}"
