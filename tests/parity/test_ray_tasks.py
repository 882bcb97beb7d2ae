"""Tasks on a Ray cluster: all done, given out again, asked to stop, and a folder that is not there."""

import os
import signal
import warnings
from collections import Counter
from pathlib import Path

import pytest
import ray_task_functions as functions
from ray_helpers import local_cluster

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray", reason="Ray is not installed here")

from ngrpo.errors import Interrupted, NgrpoError, RunFolderError
from ngrpo.integrations.ray_tasks import MOST_DEATHS, _Place, _run, run_tasks_on_ray
from ngrpo.lab.parallel import Task

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and its dependencies' own


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:  # workers import the tasks, too
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        found = local_cluster(num_cpus=2)
        yield found
        found.close()


def run(folder, *found, report=lambda counter, count: None):
    tasks = [Task(f"task {place}", function, str(folder)) for place, function in enumerate(found)]
    run_tasks_on_ray(tasks, num_processes=2, report=report, folder=folder)


def test_all_tasks_are_done_though_a_process_is_killed_and_what_they_report_counts_once(tmp_path, capfd, monkeypatch):
    told = []
    folder = tmp_path / "new"
    monkeypatch.chdir(tmp_path)
    run(folder, functions.write, functions.die_once, functions.write, report=lambda *each: told.append(each))
    assert {path.name for path in folder.iterdir()} > {"begun", "ended"}
    assert len(list(folder.iterdir())) == 4  # no mark is left
    assert (folder / "ended").read_text() == str(tmp_path)  # relative paths begin where they do here
    totals = {name: sum(count for counter, count in told if counter == name) for name, _ in told}
    assert totals == {"files": 2, "steps": 4, "tries": 1}
    assert capfd.readouterr().err.count("the process of task 1 died: it is given out again.") == 1


def test_a_process_that_takes_several_tasks_waits_for_a_stop_once(tmp_path):
    """Ray uses processes again: a second SIGTERM would come from a task that is over."""
    told = Counter()
    run(tmp_path, *[functions.count_stoppers] * 6, report=lambda counter, count: told.update({counter: count}))
    assert told["processes"] < 6
    assert told["stoppers"] == 6


def test_a_task_whose_process_always_dies_is_given_up(tmp_path):
    with pytest.raises(NgrpoError, match=rf"^task 0: its process died {MOST_DEATHS} times; .*same command goes on"):
        run(tmp_path, functions.die)
    assert len(list(tmp_path.iterdir())) == MOST_DEATHS


def test_a_process_that_somebody_else_stops_is_no_finished_task(tmp_path):
    """SIGTERM to it alone: the run saved and left, and is taken up again."""
    run(tmp_path, functions.stop_once)
    assert {path.name for path in tmp_path.iterdir()} == {"begun", "ended"}


def test_a_task_that_fails_is_named_and_what_runs_beside_it_saves(tmp_path):
    with pytest.raises(NgrpoError) as caught:
        run(tmp_path, functions.wait_for_stop, functions.fail_beside)
    assert str(caught.value) == f"task 1: ValueError: no luck in {tmp_path.name}"
    assert "in fail_beside" in caught.value.__notes__[0]  # the traceback there, for --debug
    assert {path.name for path in tmp_path.iterdir()} == {"begun", "saved"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_every_task_and_it_saves(tmp_path, number):
    with pytest.raises(Interrupted, match="asked to stop"):
        run(tmp_path, functions.wait_for_stop, report=lambda counter, count: os.kill(os.getpid(), number))
    assert {path.name for path in tmp_path.iterdir()} == {"begun", "saved"}


def test_what_a_machine_lacks_is_said(tmp_path):
    with pytest.raises(RunFolderError, match=r"the machine \S+ does not see /nowhere\. Give a --folder, and"):
        _run(functions.write, str(tmp_path), _Place(0, None, Path("/nowhere/.ray-mark"), tmp_path))
    with pytest.raises(RunFolderError, match=r"the machine \S+ does not see /nowhere\. Give a --folder, and"):
        _run(functions.write, str(tmp_path), _Place(0, None, tmp_path, Path("/nowhere")))
    with pytest.raises(NgrpoError, match=r"^task 0: ModelError: no model folder.*set NGRPO_CACHE to share it"):
        run(tmp_path, functions.miss_the_model)
