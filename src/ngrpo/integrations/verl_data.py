"""Our prompts as verl's parquet, so that verl's model reads the very tokens ours would. Needs no verl."""

import json
from pathlib import Path
from typing import Any

from ngrpo.config import Data
from ngrpo.config import Reward as RewardSettings
from ngrpo.errors import DataError
from ngrpo.types import Prompt

VERBATIM_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Chat template that changes nothing: verl puts every prompt through one, and ours have been through theirs."""


def write_prompts(
    prompts: tuple[Prompt, ...], path: Path, *, data: Data, reward: RewardSettings, split: str, tokenizer: Any
) -> None:
    """Writes prompts as verl reads them.

    Args:
        prompts: With their templates filled in.
        path: The parquet file.
        data: The section they come from.
        reward: The judge: where it reads whole rows, these are written too.
        split: `train` or `validation`: which data section the judge is made for.
        tokenizer: The model's; it is put to the test that verl's way gives the same tokens.

    Raises:
        DataError: A prompt would have other tokens in verl, or a row that the judge reads is no JSON.
    """
    import pyarrow
    import pyarrow.parquet

    texts = [_verbatim(prompt, tokenizer) for prompt in prompts]
    rows = [
        {
            "data_source": data.source,
            "prompt": [{"role": "user", "content": text}],
            "reward_model": {"style": "rule", "ground_truth": prompt.gold},
            "extra_info": {
                "index": index,
                "id": prompt.id,
                "split": split,
                "text": prompt.text,
                "problem": prompt.problem,
                "columns": _columns(prompt) if _reads_rows(reward, data) else "",
            },
        }
        for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _verbatim(prompt: Prompt, tokenizer: Any) -> str:
    """The text that has the prompt's tokens without the tokenizer adding any of its own."""
    bos = tokenizer.bos_token or ""
    for text in (prompt.text, bos + prompt.text):
        if tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) == prompt.token_ids:
            return text
    raise DataError(
        f"{prompt.source or 'prompt ' + prompt.id} would have other tokens in verl than in this package: the tokenizer "
        "adds special tokens that no text stands for. Write them into data.template."
    )


def _reads_rows(reward: RewardSettings, data: Data) -> bool:
    functions = [reward.name, *(term.name for term in reward.shaping)]
    return any(".py:" in name for name in functions) or data.source.partition(":")[0] in ("world", "gym")


def _columns(prompt: Prompt) -> str:
    columns = dict(prompt.columns)
    try:
        text = json.dumps(columns)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{prompt.source or 'prompt ' + prompt.id} has a column that is no JSON ({error}), and the judge reads "
            "whole rows, which go to verl's workers as JSON. Leave the column out of the file."
        ) from error
    if json.loads(text) != columns:
        raise DataError(
            f"{prompt.source or 'prompt ' + prompt.id} has a column that JSON changes (a tuple, or keys that are no "
            "text), and the judge reads whole rows. Leave the column out of the data."
        )
    return text
