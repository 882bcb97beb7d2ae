"""The records of a run: metrics, groups, samples, and those who listen."""

import json
import math
import sys
import time
from types import SimpleNamespace

import pytest

from helpers import make_completion, make_prompt
from ngrpo.record import METRICS, Recorder, TensorBoardListener, WandbListener, read_jsonl
from ngrpo.types import Group, Outcome


def make_group(name, values):
    return Group(
        make_prompt("1,2,3=6:", id=name, gold="1+2+3"),
        tuple(make_completion(str(place + 1)) for place in range(len(values))),
        tuple(Outcome(value, value > 0, extracted=str(value)) for value in values),
    )


GROUPS = [make_group(f"p{place}", values) for place, values in enumerate([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])]


class Told:
    """A listener that remembers."""

    def __init__(self):
        self.logged, self.is_closed = [], False

    def log(self, step, metrics):
        self.logged.append((step, dict(metrics)))

    def close(self):
        self.is_closed = True


def test_metrics_are_written_and_told(tmp_path):
    listener = Told()
    recorder = Recorder(tmp_path, listeners=[listener])
    recorder.metrics(1, {"reward/mean": 0.5, "loss/value": math.nan})
    recorder.metrics(2, {"reward/mean": 0.25, "loss/grad_norm": math.inf})
    recorder.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [
        {"step": 1, "reward/mean": 0.5, "loss/value": None},
        {"step": 2, "reward/mean": 0.25, "loss/grad_norm": None},
    ]
    assert [step for step, _ in listener.logged] == [1, 2]
    assert math.isnan(listener.logged[0][1]["loss/value"])
    assert listener.is_closed


def test_a_metric_that_is_not_declared_is_refused(tmp_path):
    listener = Told()
    recorder = Recorder(tmp_path, listeners=[listener])
    with pytest.raises(
        AssertionError, match=r"undeclared metrics \['reward/men'\]: declare them in record/metrics\.py"
    ):
        recorder.metrics(1, {"reward/mean": 0.5, "reward/men": 0.5})
    assert listener.logged == []
    assert not (tmp_path / "metrics.jsonl").exists()


def test_metrics_are_declared_with_unit_and_meaning():
    for name, metric in METRICS.items():
        section, _, what = name.partition("/")
        assert section.isalpha(), name
        assert what, name
        assert metric.unit, name
        assert len(metric.meaning) > 5, name
        for ending, units in {"_frac": ["share"], "_nats": ["nats"], "_s": ["s", "tokens/s"]}.items():
            assert metric.unit in units or not name.endswith(ending), name


def test_every_group_is_written_whole(tmp_path):
    Recorder(tmp_path).groups(7, GROUPS, [False, True, True], [[], [1.0, -1.0], [0.0, 0.0]])
    rows = read_jsonl(tmp_path / "groups.jsonl")
    assert [row["prompt"] for row in rows] == ["p0", "p1", "p2"]
    assert rows[1] == {
        "step": 7,
        "prompt": "p1",
        "kept": True,
        "rewards": [1.0, 0.0],
        "correct": [True, False],
        "kinds": ["scored", "scored"],
        "parts": {},
        "tokens": [2, 2],
        "advantages": [1.0, -1.0],
    }
    assert [row["kept"] for row in rows] == [False, True, True]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(0, []), (1, ["p0"]), (2, ["p0", "p3"]), (4, ["p0", "p1", "p3", "p4"]), (9, [f"p{place}" for place in range(6)])],
)
def test_samples_are_whole_groups_bounded_and_spread(tmp_path, count, chosen):
    groups = [make_group(f"p{place}", (0.0, 1.0)) for place in range(6)]
    Recorder(tmp_path, num_groups_per_step=count).groups(7, groups, [True] * 6, [[0.0, 0.0]] * 6)
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["prompt"] for row in rows] == [prompt for prompt in chosen for _ in range(2)]
    assert [row["group"] for row in rows] == [int(prompt[1:]) for prompt in chosen for _ in range(2)]
    assert [row["place"] for row in rows] == [0, 1] * len(chosen)
    assert [row["reward"] for row in rows] == [0.0, 1.0] * len(chosen)
    if count:
        assert rows[0] == {
            "step": 7,
            "group": 0,
            "place": 0,
            "prompt": "p0",
            "prompt_text": "1,2,3=6:",
            "completion": "1",
            "gold": "1+2+3",
            "finish_reason": "eos",
            "reward": 0.0,
            "parts": {},
            "correct": False,
            "kind": "scored",
            "extracted": "0.0",
            "rule": "",
            "normal_form": None,
            "detail": "",
        }


def shaped_group():
    outcomes = (
        Outcome(1.25, True, "scored", "6", "boxed", "6", parts={"judge": 1.0, "form": 0.25}),
        Outcome(0.0, False, "timeout", detail="killed"),
        Outcome(-0.5, False, parts={"judge": 0.0, "form": -0.5}),
    )
    return Group(make_prompt("1,2,3=6:", id="p9"), tuple(make_completion(text) for text in "123"), outcomes)


def test_parts_of_rewards_are_written_and_null_where_the_verifier_failed(tmp_path):
    Recorder(tmp_path).groups(1, [shaped_group()], [False], [[]])
    (row,) = read_jsonl(tmp_path / "groups.jsonl")
    assert row["parts"] == {"judge": [1.0, None, 0.0], "form": [0.25, None, -0.5]}
    sample, failed, _ = read_jsonl(tmp_path / "samples.jsonl")
    assert sample["parts"] == {"judge": 1.0, "form": 0.25}
    assert failed["parts"] == {}
    assert (sample["reward"], sample["rule"], sample["normal_form"]) == (1.25, "boxed", "6")


def test_what_the_verifier_failed_on_is_written_within_a_bound(tmp_path, monkeypatch):
    Recorder(tmp_path).failures(3, [GROUPS[0], shaped_group(), GROUPS[1]])
    (row,) = read_jsonl(tmp_path / "samples.jsonl")
    assert (row["group"], row["place"]) == (1, 1)
    assert (row["step"], row["prompt"], row["completion"], row["kind"], row["detail"]) == (
        3, "p9", "2", "timeout", "killed",
    )  # fmt: skip
    monkeypatch.setattr("ngrpo.record.recorder.NUM_FAILURES", 2)
    Recorder(tmp_path).failures(4, [shaped_group()] * 5)
    assert [row["step"] for row in read_jsonl(tmp_path / "samples.jsonl")] == [3, 4, 4]


def test_metrics_with_names_of_the_users_belong_to_a_family(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.metrics(1, {"reward/part/my_term": 0.5})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "reward/part/my_term": 0.5}]
    with pytest.raises(AssertionError, match="reward/parts/x"):
        recorder.metrics(1, {"reward/parts/x": 0.5})


def test_a_step_without_groups_is_fine(tmp_path):
    Recorder(tmp_path).groups(1, [], [], [])
    assert read_jsonl(tmp_path / "groups.jsonl") == read_jsonl(tmp_path / "samples.jsonl") == []


def test_forgetting_what_a_resumed_run_makes_again(tmp_path):
    recorder = Recorder(tmp_path, num_groups_per_step=1)
    for step in (1, 2, 3):
        recorder.metrics(step, {"reward/mean": step / 10})
        recorder.groups(step, GROUPS, [True] * 3, [[0.0, 0.0]] * 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rewa')  # killed here
    assert recorder.forget_after(1) == 2
    for name, lines_per_step in {"metrics.jsonl": 1, "groups.jsonl": 3, "samples.jsonl": 2}.items():
        rows = read_jsonl(tmp_path / name)
        assert [row["step"] for row in rows] == [1] * lines_per_step
        assert (tmp_path / name).read_bytes().endswith(b"}\n")
    assert recorder.forget_after(1) == 0
    assert recorder.forget_after(-1) == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_forgetting_in_an_empty_folder(tmp_path):
    assert Recorder(tmp_path).forget_after(5) == 0
    assert list(tmp_path.iterdir()) == []


# --- listeners ---


def tensorboard_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, round(event.value, 6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_logged(tmp_path):
    listener = TensorBoardListener(tmp_path)
    listener.log(0, {"validation/pass_at_1": 0.125})
    listener.log(1, {"reward/mean": 0.5, "loss/value": -0.25})
    listener.log(2, {"reward/mean": 0.75})
    listener.close()
    assert tensorboard_scalars(tmp_path) == {
        "validation/pass_at_1": [(0, 0.125)],
        "reward/mean": [(1, 0.5), (2, 0.75)],
        "loss/value": [(1, -0.25)],
    }


@pytest.mark.parametrize(
    ("resumed_at", "left"), [(2, [(0, 0.0), (1, 0.1), (2, 0.2)]), (0, [(0, 0.0)])], ids=["checkpoint", "none yet"]
)
def test_tensorboard_shows_a_resumed_step_once(tmp_path, monkeypatch, resumed_at, left):
    first = TensorBoardListener(tmp_path)
    for step in range(5):
        first.log(step, {"reward/mean": step / 10})
    first.close()
    # Event files are named and read by the second; a resumed run is never as quick as this test.
    later = time.time() + 5.0
    monkeypatch.setattr(time, "time", lambda: later)
    again = TensorBoardListener(tmp_path, first_step=resumed_at)
    if resumed_at == 0:
        again.log(0, {"reward/mean": 0.0})
    again.log(resumed_at + 1, {"reward/mean": 0.9})
    again.close()
    assert tensorboard_scalars(tmp_path)["reward/mean"] == [*left, (resumed_at + 1, 0.9)]


def test_wandb_is_told_by_step(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("finished")
    )

    def init(**options):
        calls.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    listener = WandbListener(tmp_path, project="p", name="n", mode="offline", config={"seed": 1})
    listener.log(3, {"reward/mean": 0.5})
    listener.close()
    assert calls == [
        {"project": "p", "name": "n", "mode": "offline", "dir": str(tmp_path), "config": {"seed": 1}},
        (3, {"reward/mean": 0.5}),
        "finished",
    ]


def test_lines_are_plain_json_objects(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.metrics(1, {"reward/mean": 1 / 3})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "reward/mean": 1 / 3}
