"""Progress in logs: a line every ten seconds, one at the end, with rate and time left that are true."""

import io
import re

import pytest
from rich.console import Console

from ngrpo.record import console, progress_bar
from ngrpo.record import progress as module
from ngrpo.record.progress import LineProgress, RateColumn


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def lines(clock, out):
    progress = LineProgress(console=Console(file=out, width=40), speed_estimate_period=600.0)
    progress.get_time = clock
    return progress


def printed(out):
    return out.getvalue().splitlines()


def test_lines_come_every_ten_seconds_and_at_the_end(lines, clock, out):
    task = lines.add_task("train", total=100, unit="step", note="")
    times = []
    for _ in range(100):
        clock.now += 0.7
        before = len(printed(out))
        lines.advance(task)
        if len(printed(out)) > before:
            times.append(clock.now)
    assert len(times) == len(printed(out))
    gaps = [later - sooner for sooner, later in zip([100.0, *times[:-1]], times, strict=True)]
    assert all(gap >= 10.0 for gap in gaps[:-1])  # the last line is due at the end, whenever that is
    assert max(gaps) < 10.0 + 0.7 + 1e-9
    assert printed(out)[-1] == "train 100/100 step, 1.43/s, 70 s gone, 0 s left"


def test_the_end_is_told_once(lines, clock, out):
    task = lines.add_task("eval", total=2, unit="sample", note="")
    lines.advance(task, 2)
    for _ in range(5):
        clock.now += 20.0
        lines.update(task, note="done")
        lines.advance(task)
    assert len(printed(out)) == 1


def test_a_first_step_longer_than_ten_seconds_is_told(lines, clock, out):
    task = lines.add_task("train", total=4, unit="step", note="")
    clock.now += 50.0
    lines.update(task, completed=1, note="correct 0.250")
    assert printed(out) == ["train 1/4 step, 0.02/s, 50 s gone, 150 s left  correct 0.250"]


def test_the_rate_counts_what_was_done_now(lines, clock, out):
    # 900 of 1000 were found on disk; 20 more take 10 s, so 80 more take 40 s.
    task = lines.add_task("eval", total=1000, completed=900, unit="sample", note="")
    clock.now += 10.0
    lines.advance(task, 20)
    assert printed(out) == ["eval 920/1000 sample, 2.00/s, 10 s gone, 40 s left"]


def test_nothing_done_yet_leaves_the_end_open(lines, clock, out):
    task = lines.add_task("train", total=4, unit="step", note="")
    clock.now += 11.0
    lines.update(task, note="waiting")
    assert printed(out) == ["train 0/4 step, 0.00/s, 11 s gone, ? s left  waiting"]


def test_tasks_are_told_apart(lines, clock, out):
    first = lines.add_task("train", total=2, unit="step", note="")
    second = lines.add_task("evaluate", total=3_000_000, unit="sample", note="")
    clock.now += 10.0
    lines.advance(first)
    lines.advance(second, 1_234_567)
    assert [line.split(",")[0] for line in printed(out)] == ["train 1/2 step", "evaluate 1234567/3000000 sample"]


def test_a_pipe_gets_lines_and_no_bar(monkeypatch, capsys):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # with which rich can be told to see a terminal
        monkeypatch.delenv(name, raising=False)
    with progress_bar() as progress:
        assert isinstance(progress, LineProgress)
        task = progress.add_task("eval", total=3, unit="sample", note="")
        progress.advance(task, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"eval 3/3 sample, [\d.]+/s, 0 s gone, 0 s left\n", captured.err)


def test_a_terminal_gets_a_bar_with_rate_time_left_and_note(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=out, force_terminal=True, width=120))
    with progress_bar() as progress:
        assert not isinstance(progress, LineProgress)
        task = progress.add_task("train", total=4, unit="step", note="correct 0.250")
        progress.advance(task)
        progress.refresh()
    text = out.getvalue()
    for part in ("train", "1/4", "step/s", "left", "correct 0.250"):
        assert part in text


@pytest.mark.parametrize(("seconds", "shown"), [(0.25, "4.0 step/s"), (4.0, "4.0 s/step"), (None, "- step/s")])
def test_the_rate_is_steps_per_second_or_seconds_per_step(lines, clock, seconds, shown):
    task = lines.add_task("train", total=9, unit="step", note="")
    for _ in range(3 if seconds else 0):
        clock.now += seconds
        lines.advance(task)
    assert RateColumn().render(lines.tasks[task]).plain == shown


def test_notes_go_to_standard_error(capsys):
    console().print("a note")
    assert capsys.readouterr() == ("", "a note\n")


# --- bars for work that is mostly short ------------------------------------------------------------------------------


def test_a_late_bar_appears_when_its_stage_has_taken_a_while(clock, out, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", clock)
    monkeypatch.setattr(module, "console", lambda: Console(file=out, width=80))
    with module.late_bars(patience_s=2.0) as on_progress:
        on_progress("quick", 0.0)
        clock.now += 1.9
        on_progress("quick", 1.0)
        on_progress("slow", 0.0)  # the patience of a stage begins with it
        clock.now += 2.0
        assert printed(out) == []
        on_progress("slow", 0.5)
        on_progress("slow", 1.0)
    (line,) = printed(out)
    assert line.startswith("slow 100/100 %")


def test_work_in_batches_gives_the_same_results(monkeypatch):
    monkeypatch.setattr(module, "progress_bar", lambda: pytest.fail("a bar for short work"))
    sizes = []

    def double(items):
        sizes.append(len(items))
        return [2 * item for item in items]

    assert module.with_late_bar(double, "doubling", batch_size=3)(range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [3, 3, 1]
    assert module.with_late_bar(double, "doubling")([]) == []
