import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "from ngrpo.config import load_config, to_toml; to_toml(load_config('tiny'))",
            ["torch", "transformers", "datasets", "numpy", "ngrpo.objectives"],
        ),
        ("import ngrpo.cli.config_commands", ["torch", "transformers", "datasets", "numpy", "pydantic"]),
    ],
)
def test_reading_a_run_file_loads_nothing_heavy(statement, forbidden):
    code = f"{statement}\nimport sys\nprint([name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
