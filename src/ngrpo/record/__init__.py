"""What is written down: metrics, groups, samples, TensorBoard, W&B, progress bars."""

from ngrpo.record.jsonl import (
    append_lines,
    iterate_jsonl,
    keep_lines,
    mend_tail,
    read_jsonl,
    write_json,
    write_lines,
)
from ngrpo.record.lock import hold_folder
from ngrpo.record.metrics import METRICS, Metric
from ngrpo.record.progress import console, late_bars, progress_bar, with_late_bar
from ngrpo.record.provenance import provenance
from ngrpo.record.recorder import Listener, Recorder, TensorBoardListener, WandbListener

__all__ = [
    "METRICS",
    "Listener",
    "Metric",
    "Recorder",
    "TensorBoardListener",
    "WandbListener",
    "append_lines",
    "console",
    "hold_folder",
    "iterate_jsonl",
    "keep_lines",
    "late_bars",
    "mend_tail",
    "progress_bar",
    "provenance",
    "read_jsonl",
    "with_late_bar",
    "write_json",
    "write_lines",
]
