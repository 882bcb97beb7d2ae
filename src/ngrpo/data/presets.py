"""Published data sets by name: where each comes from, what it must hold, and what to know before training on it.

A set is read from the hub (`math500`) or from a file of the user's (`math500:FILE`); see `ngrpo.data.published`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DataPreset:
    """A published set of problems.

    Attributes:
        name: How `data.source` and `--data` call it.
        title: What it is.
        hub: Its name on the Hugging Face hub.
        subsets: Configurations there, read one after the other; None is the only one.
        split: Split there.
        prompt_column: Column of the problem there.
        gold_column: Column there of the answer, or of a solution that ends in it.
        num_problems: How many there are.
        fingerprint: `content.fingerprint` over problems and final answers; None where no copy was at hand.
        problems_fingerprint: The same over the problems alone, so that a message can say which of the two differs.
        licence: Licence, or who holds the rights.
        origin: Who made it, and when.
        note: What it overlaps with, since when it is public, what is wrong with it.
        renamed: Other columns there, by the name that they get here.
        golds: Golds that are wrong as published, by `content.problem_key`: the right one, or None where the published
            solution has none, and the row is left out.
    """

    name: str
    title: str
    hub: str
    split: str
    num_problems: int
    fingerprint: str | None
    problems_fingerprint: str | None
    licence: str
    origin: str
    note: str
    prompt_column: str = "problem"
    gold_column: str = "answer"
    subsets: tuple[str | None, ...] = (None,)
    renamed: Mapping[str, str] = field(default_factory=dict)
    golds: Mapping[str, str | None] = field(default_factory=dict)


_MAA = "problems (c) Mathematical Association of America; for evaluation"
_HENDRYCKS = "Hendrycks et al., March 2021 (arXiv:2103.03874); split of the paper"
_GSM8K = "Cobbe et al., October 2021 (arXiv:2110.14168)"

_PRESETS = {
    preset.name: preset
    for preset in (
        DataPreset(
            name="math_train",
            title="MATH, training split",
            hub="DigitalLearningGmbH/MATH-lighteval",
            subsets=("default",),
            split="train",
            gold_column="solution",
            renamed={"type": "subject"},
            num_problems=7500,
            fingerprint="d7992372f12205a19c5fd54d646eb44d90df165696a38bf805099f2cde32515c",
            problems_fingerprint="058b08b7a250818a01ec3a3e86b58ac33c6b172da34aadbfea3287cc74044ab4",
            licence="MIT",
            origin=_HENDRYCKS,
            note="Public since 2021 and in the pre-training of most models. 2 of its problems are in math_test too, "
            "none in math500; 2 occur twice. 2 rows have an empty box for an answer and are left out.",
            golds={"7cf942601f": None, "37c4bef9a6": None},
        ),
        DataPreset(
            name="math_test",
            title="MATH, test split",
            hub="DigitalLearningGmbH/MATH-lighteval",
            subsets=("default",),
            split="test",
            gold_column="solution",
            renamed={"type": "subject"},
            num_problems=5000,
            fingerprint="87adcffaf4523c56c4e9bd806f6af2b5121e077d2d4433d62a5efff627c23195",
            problems_fingerprint="b14afe61fb1b25363c6c29fd943b2d65b3716a5faec50b0bf611ca39d4914c85",
            licence="MIT",
            origin=_HENDRYCKS,
            note="Public since 2021 and in the pre-training of most models. Holds all of math500, and 2 problems of "
            "math_train. Many train on 4,500 of these rows (the PRM800K split). One gold is mended: a problem whose "
            "solution boxes 12 as notation has the answer 6.",
            golds={"03a9b48d74": "6"},
        ),
        DataPreset(
            name="math500",
            title="MATH-500",
            hub="HuggingFaceH4/MATH-500",
            split="test",
            num_problems=500,
            fingerprint="9bf8b14a4556860b5a8fa97e69180c52e67ee4aeaf78884287f3d9415d186285",
            problems_fingerprint="499972cbbaf57bf3f178325d53ee4c04d07d16495414b1023c487d3574d63420",
            licence="MIT",
            origin="Lightman et al., May 2023 (arXiv:2305.20050): 500 problems of MATH's test split",
            note="All of it is in math_test, none in math_train: a model trained on math_test, or on data made from "
            "it, has seen it. Public since 2021.",
        ),
        DataPreset(
            name="amc23",
            title="AMC 2023 (12A and 12B)",
            hub="math-ai/amc23",
            split="test",
            prompt_column="question",
            num_problems=40,
            fingerprint="baf1f3297c43cc6a2323cab524944e96c91e6eff7280e90b624aa75dcb7b1704",
            problems_fingerprint="d76f158b11750d2cca6505e3d78976948945e43972144fc43bf31adb05c5b583",
            licence=_MAA,
            origin="AMC 12 of November 2023, reworded so that every answer is a whole number",
            note="Public since November 2023: models with later training data may have seen problems and solutions. "
            "With 40 problems one problem is 2.5 points.",
        ),
        DataPreset(
            name="aime2024",
            title="AIME 2024 I and II",
            hub="HuggingFaceH4/aime_2024",
            split="train",
            num_problems=30,
            fingerprint=None,
            problems_fingerprint=None,
            licence=_MAA,
            origin="AIME of January and February 2024, from the AoPS wiki",
            note="Public since February 2024, and part of some training sets that collect AIME problems. With 30 "
            "problems one problem is 3.3 points. Checked by the number of rows only.",
        ),
        DataPreset(
            name="aime2025",
            title="AIME 2025 I and II",
            hub="opencompass/AIME2025",
            subsets=("AIME2025-I", "AIME2025-II"),
            split="test",
            prompt_column="question",
            num_problems=30,
            fingerprint="2b3410922650cc7b97e181c1354ac8febe3241959291236165d80979a23eee49",
            problems_fingerprint="6df39a8fdf1b985981083514ae0d0badafc9892909cb825026bbd43fe4a068be",
            licence=_MAA,
            origin="AIME of 6 and 12 February 2025",
            note="Public since February 2025: clean for models whose data end before. One gold is 336^\\circ, which "
            "graders that compare strings never match. Other copies word the problems differently. With 30 problems "
            "one problem is 3.3 points.",
        ),
        DataPreset(
            name="gsm8k_train",
            title="GSM8K, training split",
            hub="openai/gsm8k",
            subsets=("main",),
            split="train",
            prompt_column="question",
            num_problems=7473,
            fingerprint="401b3ad14ba558cd87080e722a0f8b2ef331887603ddb7403f5400aa86033bf7",
            problems_fingerprint="5be0bafba914db8598ac6312299b9451f876e93ee219179e413a2e588d6099a6",
            licence="MIT",
            origin=_GSM8K,
            note="Public since 2021 and in the pre-training of most models, often with its solutions.",
        ),
        DataPreset(
            name="gsm8k_test",
            title="GSM8K, test split",
            hub="openai/gsm8k",
            subsets=("main",),
            split="test",
            prompt_column="question",
            num_problems=1319,
            fingerprint="83232e40ee9f98c3b4f4230f71003b63239560f19c23b0435a3f06357e42f2d1",
            problems_fingerprint="737b895f35a550b2251c6331fa1146900547e7f6f82634ac6d382e91c490a54a",
            licence="MIT",
            origin=_GSM8K,
            note="Public since 2021 and in the pre-training of most models; newly written problems of the same kind "
            "score lower for several of them (arXiv:2405.00332).",
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names of all sets.

    Example:
        >>> "math500" in names()
        True
    """
    return tuple(_PRESETS)


def get(name: str) -> DataPreset:
    """The set of a name that `names` lists."""
    return _PRESETS[name]


def about(source: str) -> DataPreset | None:
    """What is known of a source.

    Args:
        source: As `data.source` has it.

    Returns:
        The set that `NAME` or `NAME:FILE` means, None for everything else.

    Example:
        >>> about("math500:copy/of/it.parquet").num_problems
        500
        >>> about("math500.parquet") is None
        True
    """
    return _PRESETS.get(source.partition(":")[0])
