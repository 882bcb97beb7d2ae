"""Evaluation on a Ray cluster of two worker processes: the tokens of one process, whoever dies on the way.

Ray is no part of the environment of `make test`: these run where it is installed, and are skipped elsewhere.
"""

import os
import signal
import warnings
from dataclasses import replace

import pytest
from ray_helpers import local_cluster

from helpers import EqualsGold, make_prompts
from ngrpo.errors import ConfigError, Interrupted, ModelError, NgrpoError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray", reason="Ray is not installed here")

from ngrpo.data import PromptSet
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.integrations.ray import MOST_DEATHS, RayEngine, RayWorkers, lot_size
from ngrpo.integrations.ray_cluster import RayCluster, connect
from ngrpo.integrations.ray_worker import WorkerModel
from ngrpo.policy import load_policy, load_tokenizer, weights_fingerprint
from ngrpo.record import read_jsonl
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, random_key

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and its dependencies' own

PROMPTS = PromptSet(tuple(make_prompts()), "six", fingerprint="f00d")
SETTINGS = EvaluationSettings(
    model="small", data="six", fingerprint="f00d", num_prompts=len(PROMPTS), num_samples=40, ks=(1,), temperature=1.0,
    top_p=1.0, top_k=0, max_completion_tokens=16, seed=3, reward="equals", engine="native", precision="float64",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    found = local_cluster(num_cpus=2)
    assert (found.num_workers, found.on_gpus) == (2, False)
    yield found
    found.close()


@pytest.fixture(scope="module")
def model(model_folder):
    path = str(model_folder)
    return WorkerModel(path, weights_fingerprint(path), "native", "cpu", "float64", max_rows=8, cache_gib=1.0)


@pytest.fixture(scope="module")
def workers(cluster, model):
    """The module's own: starting one takes seconds. Whom a test kills is replaced in the next."""
    found = RayWorkers(cluster, model)
    yield found
    found.close()


@pytest.fixture
def room(workers):
    """The cluster has room for two workers: the module's own make place for others."""
    workers.close()


@pytest.fixture(scope="module")
def native(model_folder):
    path = str(model_folder)
    return NativeEngine(load_policy(path, load_tokenizer(path), device="cpu", precision="float64"), max_rows=8)


def requests_of(count):
    prompts = PROMPTS.prompts
    return [
        SampleRequest(
            prompts[place % len(prompts)], random_key(seed=1, stream=1, step=0, occurrence=place % 6, sample=place)
        )
        for place in range(count)
    ]


def pids_of(workers):
    workers.start(2)
    return ray.get([worker.actor.__ray_call__.remote(lambda self: os.getpid()) for worker in workers.workers])


def rows_of(folder):
    rows = read_jsonl(folder / "samples.jsonl")
    return sorted(rows, key=lambda row: (row["prompt"], row["sample"]))


def evaluated(folder, engine, **options):
    evaluate(folder, SETTINGS, PROMPTS, lambda: engine, EqualsGold(), max_rows=8, **options)
    return rows_of(folder)


def same(row, other):
    """Lines of one sample: equal, but for the last bits of the entropy."""
    entropy, theirs = row.pop("entropy_nats"), other.pop("entropy_nats")
    return row == other and entropy == pytest.approx(theirs, abs=1e-9)


def test_tokens_are_those_of_one_process(workers, native):
    requests, told = requests_of(100), []
    engine = RayEngine(workers, answers_are_boxed=False)
    got = engine.sample(requests, Sampling(16), on_completions=lambda *ended: told.append(ended))
    expected = native.sample(requests, Sampling(16))
    assert [each.token_ids for each in got] == [each.token_ids for each in expected]
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-9)
    assert sorted(index for indices, _ in told for index in indices) == list(range(100))
    assert all(got[index] is each for indices, ended in told for index, each in zip(indices, ended, strict=True))


def test_an_evaluation_with_a_worker_killed_has_the_lines_of_one_process(tmp_path, workers, native, capfd):
    """SIGKILL while it samples; nothing is lost, nothing is there twice, and the folder is one of ours."""
    victim, survivor = pids_of(workers)
    counts = []

    def on_progress(count):
        counts.append(count)
        if len(counts) == 2:  # the first is what was found on disk
            os.kill(victim, signal.SIGKILL)

    rows = evaluated(tmp_path / "ray", RayEngine(workers, answers_are_boxed=False), on_progress=on_progress)
    assert victim not in pids_of(workers)
    assert survivor in pids_of(workers)
    assert "a Ray worker died with" in capfd.readouterr().err
    assert sum(counts) == len(rows) == 240
    expected = evaluated(tmp_path / "native", native, on_progress=lambda count: None)
    assert all(same(row, other) for row, other in zip(rows, expected, strict=True))


def test_all_workers_may_die(workers, native):
    requests, seen = requests_of(120), []
    pids = pids_of(workers)

    def on_completions(indices, completions):
        if not seen:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        seen.extend(indices)

    got = RayEngine(workers, answers_are_boxed=False).sample(requests, Sampling(16), on_completions=on_completions)
    assert sorted(seen) == list(range(120))
    assert [each.token_ids for each in got] == [each.token_ids for each in native.sample(requests, Sampling(16))]


def test_workers_that_have_sampled_may_die_in_any_number(workers, native, monkeypatch):
    """A machine with many of them: no reason to give up."""
    monkeypatch.setattr("ngrpo.integrations.ray.MOST_DEATHS", 1)
    pids = pids_of(workers)
    engine, requests, seen = RayEngine(workers, answers_are_boxed=False), requests_of(120), []
    engine.sample(requests_of(16), Sampling(4))  # a lot for each

    def on_completions(indices, completions):
        if not seen:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        seen.extend(indices)

    got = engine.sample(requests, Sampling(16), on_completions=on_completions)
    assert sorted(seen) == list(range(120))
    assert not set(pids) & set(pids_of(workers))
    assert [each.token_ids for each in got] == [each.token_ids for each in native.sample(requests, Sampling(16))]


def test_what_the_caller_raises_ends_the_sampling_and_the_workers_go_on_later(workers):
    class Broken(Exception):
        pass

    def fail(indices, completions):
        raise Broken

    engine = RayEngine(workers, answers_are_boxed=False)
    with pytest.raises(Broken):
        engine.sample(requests_of(100), Sampling(16), on_completions=fail)
    with pytest.raises(Interrupted, match="asked to stop"):
        engine.sample(requests_of(100), Sampling(16), should_stop=lambda: True)
    assert len(engine.sample(requests_of(3), Sampling(4))) == 3


def test_an_error_of_the_model_is_raised_here(workers):
    with pytest.raises(ModelError, match=r"prompt '.*' has \d+ tokens; with 96 of a completion"):
        RayEngine(workers, answers_are_boxed=False).sample(requests_of(3), Sampling(96))


@pytest.mark.usefixtures("room")
def test_that_nobody_begins_is_said_once(cluster, model, monkeypatch, capfd):
    """Ray waits for room without a word."""
    monkeypatch.setattr("ngrpo.integrations.ray.LATE_S", 0.0)
    workers = RayWorkers(cluster, model)
    assert len(RayEngine(workers, answers_are_boxed=False).sample(requests_of(1), Sampling(4))) == 1
    workers.close()
    assert capfd.readouterr().err.count("no Ray worker has loaded the model in 0 s") == 1


@pytest.mark.usefixtures("room")
def test_workers_that_die_at_once_are_given_up(cluster, model):
    class Dying(RayWorkers):
        def start(self, count):
            if not self.workers:
                super().start(1)
                os.kill(ray.get(self.workers[0].actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)

    workers = Dying(cluster, model)
    with pytest.raises(NgrpoError, match=rf"{MOST_DEATHS} Ray workers died one after the other.*lower --max-rows"):
        RayEngine(workers, answers_are_boxed=False).sample(requests_of(3), Sampling(4))
    workers.close()


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "/nowhere/to/be/found"}, ModelError, r"the worker on \S+: no model folder at '/nowhere.*same path"),
        ({"weights": "0123"}, ConfigError, r"the worker on \S+: '.*' holds other weights than on the driver"),
        ({"version": "0.0.1"}, ConfigError, r"the worker on \S+ has ngrpo \S+, the driver 0\.0\.1\. Install the same"),
    ],
)
def test_a_worker_that_cannot_load_the_model_says_which_and_why(cluster, model, change, error, message):
    workers = RayWorkers(cluster, replace(model, **change))
    with pytest.raises(error, match=message):
        RayEngine(workers, answers_are_boxed=False).sample(requests_of(3), Sampling(4))
    workers.close()


def test_lots_get_smaller_but_not_too_small():
    todo, sizes = 1000, []
    while todo:
        sizes.append(lot_size(todo, total=1000, num_workers=2, fill=32))
        todo -= sizes[-1]
    assert sizes[:3] == [250, 188, 141]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes[:-1]) == 32
    # One machine after another would otherwise wait for the longest completion of many small lots.
    assert [lot_size(todo, total=60, num_workers=2, fill=512) for todo in (60, 30)] == [30, 30]


def test_addresses_that_are_none(monkeypatch):
    with pytest.raises(ConfigError, match=r"--ray 'ray://head:10001' is none of local, auto and HOST:PORT"):
        connect("ray://head:10001")
    with pytest.raises(ConfigError, match=r"nobody answers at 127\.0\.0\.1:1 .*Start the head there"):
        connect("127.0.0.1:1")


def test_a_worker_has_a_cpu_or_a_gpu():
    assert RayCluster(2, on_gpus=False).share == {"num_cpus": 1}
    assert RayCluster(2, on_gpus=True).share == {"num_gpus": 1}
    model = WorkerModel("", "", "native", "auto", "auto", max_rows=512, cache_gib=4.0)
    assert RayWorkers(RayCluster(2, on_gpus=False), model).fill == 128
    assert RayWorkers(RayCluster(2, on_gpus=True), model).fill == 512
