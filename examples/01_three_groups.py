"""Why groups that are all wrong matter: three groups of eight completions, under GRPO and under NGRPO."""

from ngrpo import objectives

GROUPS = {
    "all wrong": [0, 0, 0, 0, 0, 0, 0, 0],
    "one right of eight": [1, 0, 0, 0, 0, 0, 0, 0],
    "all right": [1, 1, 1, 1, 1, 1, 1, 1],
}

MEANING = """\
GRPO compares completions with each other: a group that is all wrong teaches it nothing, every advantage is 0.
NGRPO adds one imagined right completion to the comparison: all eight mistakes become less likely (-1/3 each),
and a group that is all right still changes nothing."""


def main() -> None:
    """Print the advantages of the three groups under both methods."""
    grpo, ngrpo = objectives.get("grpo"), objectives.get("ngrpo")
    print("Advantage of each completion (positive: make it likelier, negative: less likely)\n")
    for name, rewards in GROUPS.items():
        one_group = [0] * len(rewards)
        print(name)
        print("  reward " + "".join(f"{reward:8d}" for reward in rewards))
        print("  grpo   " + "".join(f"{advantage:8.3f}" for advantage in grpo.advantages(rewards, one_group).tolist()))
        print("  ngrpo  " + "".join(f"{advantage:8.3f}" for advantage in ngrpo.advantages(rewards, one_group).tolist()))
        print()
    print(MEANING)


if __name__ == "__main__":
    main()
