"""What is written down: metrics, groups, samples, TensorBoard, W&B, progress bars."""

from ngrpo.record.jsonl import append_lines, keep_lines, read_jsonl, write_json
from ngrpo.record.metrics import METRICS, Metric
from ngrpo.record.progress import console, progress_bar
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
    "keep_lines",
    "progress_bar",
    "provenance",
    "read_jsonl",
    "write_json",
]
