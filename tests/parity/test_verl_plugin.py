"""verl finds the plug-in: in this process, in a worker of a real Ray, by entry point, variable and external_lib."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")

import ngrpo
from ngrpo.errors import ConfigError
from ngrpo.integrations import verl_status
from ngrpo.integrations.verl_cluster import check_cluster
from ngrpo.integrations.verl_status import ENTRY_POINT, plugin_complaint, require_verl

SOURCE = str(Path(ngrpo.__file__).parent.parent)

IN_WORKERS = """
    import json, ray
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

    @ray.remote
    def knows(external_lib=None):
        import os, verl
        from verl.trainer.ppo import core_algos
        from verl.utils.import_utils import import_external_libs
        import_external_libs(external_lib)  # what verl does with actor_rollout_ref.model.external_lib
        return os.getpid(), "ngrpo" in core_algos.ADV_ESTIMATOR_REGISTRY

    def ask(*arguments, **variables):
        return knows.options(runtime_env={"env_vars": variables}).remote(*arguments)

    found = ray.get([
        ask(),
        ask(VERL_USE_EXTERNAL_PLUGINS="none"),
        ask(VERL_USE_EXTERNAL_PLUGINS="none", VERL_USE_EXTERNAL_MODULES="ngrpo.integrations.verl"),
        ask("ngrpo.integrations.verl", VERL_USE_EXTERNAL_PLUGINS="none"),
    ])
    assert os_getpid() not in {pid for pid, _ in found}
    print("FOUND", json.dumps([knew for _, knew in found]))
"""


@pytest.fixture
def with_entry_point(tmp_path):
    """PYTHONPATH of an installation whose distribution says what pyproject.toml does."""
    info = tmp_path / "site" / "ngrpo_entry-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ngrpo-entry\nVersion: 1.0\n")
    group, module = ENTRY_POINT
    (info / "entry_points.txt").write_text(f"[{group}]\nngrpo = {module}\n")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([SOURCE, str(info.parent)]),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # or its workers wait for every other process of the machine
    }


def run(code, env, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments],
        env=env, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_workers_of_ray_know_the_estimator_by_entry_point_by_variable_and_by_external_lib(with_entry_point):
    out = run("from os import getpid as os_getpid" + IN_WORKERS.replace("\n    ", "\n"), with_entry_point)
    line = next(line for line in out.splitlines() if line.startswith("FOUND"))
    assert json.loads(line.removeprefix("FOUND ")) == [True, False, True, True]


def test_the_driver_knows_it_by_the_entry_point_alone(with_entry_point):
    code = """
        import verl
        from verl.trainer.ppo.core_algos import get_adv_estimator_fn
        print(get_adv_estimator_fn("ngrpo").__name__)
    """
    assert "estimate_ngrpo" in run(code, with_entry_point)


def test_what_doctor_shows(with_entry_point):
    code = """
        from ngrpo.integrations.verl_status import verl_status
        for what, ok, fix in verl_status():
            print(f"{what}|{ok}|{fix}")
    """
    rows = dict(line.rsplit("|", 2)[:2] for line in run(code, with_entry_point).splitlines() if line.count("|") == 2)
    assert rows["antlr4 runtime 4.9.3"] == "True"
    assert rows["entry point verl.plugins"] == "True"
    assert rows["plug-in loads"] == "True"
    assert rows["vllm"] == "False"


def test_a_plug_in_that_verl_would_drop_in_silence_is_said_by_name(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    assert plugin_complaint() is None
    require_verl()
    monkeypatch.setattr(verl_status, "PROBE", "import ngrpo.integrations.verl_with_a_typo")
    assert "No module named 'ngrpo.integrations.verl_with_a_typo'" in plugin_complaint()
    with pytest.raises(ConfigError, match=r"verl cannot load ngrpo's plug-in: .*verl_with_a_typo"):
        require_verl()


def test_a_machine_of_the_cluster_without_the_plug_in_is_named(with_entry_point, tmp_path):
    """Two machines of a real Ray cluster; on one of them an empty package has our name."""
    (tmp_path / "ngrpo").mkdir()
    (tmp_path / "ngrpo/__init__.py").touch()
    code = """
        import sys
        from ray.cluster_utils import Cluster
        from ngrpo.errors import ConfigError
        from ngrpo.integrations.verl_cluster import check_cluster

        def told(address):
            try:
                check_cluster(address)
            except ConfigError as error:
                return " / ".join(str(error).splitlines())

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        print("ONE:", told(cluster.address))
        cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": sys.argv[1]})
        print("TWO:", told(cluster.address))
        cluster.shutdown()
    """
    lines = run(code, with_entry_point, str(tmp_path)).splitlines()
    found = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    assert found["ONE"] == "None"
    assert found["TWO"].startswith("verl cannot load ngrpo's plug-in on every machine of the cluster: /   ")
    assert found["TWO"].count("No module named 'ngrpo.integrations'") == 1


def test_a_cluster_that_cannot_be_joined_is_said_by_its_address(monkeypatch):
    import ray

    def refuse(**_):
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match=r"cannot join the Ray cluster at auto \(Could not find any .* instance\)"):
        check_cluster("auto")
