"""ngrpo: reinforcement learning with verifiable rewards that learns from failure.

Nothing heavy is imported here: `import ngrpo` loads neither torch nor transformers. Import the part you need:
`from ngrpo import objectives`, `from ngrpo import stats`, `from ngrpo.rewards.math import grade`.
"""

__version__ = "0.1.0"
