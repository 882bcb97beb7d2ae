"""What a run file can say, and how it is read, shown and compared. No torch here: reading one takes no model.

`load_config` is the door; `RunConfig` and its sections are what comes out.
"""

from ngrpo.config.fields import FieldDoc, describe_fields
from ngrpo.config.load import load_config, load_sections
from ngrpo.config.models import (
    Checkpoint,
    Data,
    Lora,
    Model,
    Objective,
    Optim,
    Record,
    Refill,
    Reward,
    Rollout,
    Run,
    RunConfig,
    Section,
    ShapingTerm,
    Train,
    Update,
    Validation,
)
from ngrpo.config.preset_files import names as preset_names
from ngrpo.config.show import diff, resolved, to_toml

__all__ = [
    "Checkpoint",
    "Data",
    "FieldDoc",
    "Lora",
    "Model",
    "Objective",
    "Optim",
    "Record",
    "Refill",
    "Reward",
    "Rollout",
    "Run",
    "RunConfig",
    "Section",
    "ShapingTerm",
    "Train",
    "Update",
    "Validation",
    "describe_fields",
    "diff",
    "load_config",
    "load_sections",
    "preset_names",
    "resolved",
    "to_toml",
]
