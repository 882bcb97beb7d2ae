"""Sampling: engines behind one protocol, and groups made of what they return."""

from ngrpo.rollout.choose import engine_for, is_boxed, logprobs_are_exact, reward_bounds, reward_for
from ngrpo.rollout.engine import Engine, SampleRequest, Sampling, random_key
from ngrpo.rollout.groups import sample_groups
from ngrpo.rollout.native import NativeEngine
from ngrpo.rollout.scripted import ScriptedEngine

__all__ = [
    "Engine",
    "NativeEngine",
    "SampleRequest",
    "Sampling",
    "ScriptedEngine",
    "engine_for",
    "is_boxed",
    "logprobs_are_exact",
    "random_key",
    "reward_bounds",
    "reward_for",
    "sample_groups",
]
