"""Training on one machine. Start at `loop`."""

from ngrpo.train.assemble import TrainingRun, assemble, check_start
from ngrpo.train.loop import train

__all__ = ["TrainingRun", "assemble", "check_start", "train"]
