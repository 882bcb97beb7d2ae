"""The run folder that the launch writes, read by verl's own code: its data set, its prompts, its loader of rewards."""

import asyncio
import json
import warnings

import pytest

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")
pytest.importorskip("hydra", reason="the environment of verl's parity tests has Hydra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import datasets
    import numpy as np
    import torch
    from tensordict import TensorDict
    from transformers import AutoTokenizer
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.protocol import DataProto
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
    from verl_helpers import composed

from ngrpo.config import load_config
from ngrpo.data import load_prompts
from ngrpo.integrations import verl_launch
from ngrpo.integrations.verl_config import Machines

ROWS = [{"problem": text, "answer": str(place)} for place, text in enumerate(("1,2,3=6:", "3,5,7,2=14:", "9,9,9=81:"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder):
    """A prepared run: the configuration that verl composes, our prompts, and verl's tokenizer."""
    folder = tmp_path_factory.mktemp("launch")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = load_config(
        "gpu_1x",
        [
            f"run.dir={folder}/runs", f"model.path={model_folder}", f"data.source={data}", "data.subset=none",
            "data.template='({prompt}'", "data.system_prompt=none", "data.max_prompt_tokens=30", "validation=none",
            "rollout.max_completion_tokens=20", "rollout.num_prompts_per_step=2", "update.num_updates_per_step=1",
        ],
    )  # fmt: skip
    arguments = verl_launch.arguments_for(config, Machines())
    verl_launch.prepare(config, arguments, resume=False)
    got = composed(*arguments)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompts = load_prompts(str(data), tokenizer, template="({prompt}").prompts
    tokenizer.chat_template = got.actor_rollout_ref.model.custom_chat_template  # as verl's HFModelConfig does
    return got, prompts, tokenizer


def test_verls_model_reads_the_very_tokens_that_ours_would(run, tmp_path, monkeypatch):
    got, prompts, tokenizer = run
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = RLHFDataset(got.data.train_files, tokenizer, got.data)
    builder = ContinuousTokenBuilder(tokenizer)
    assert len(dataset) == len(prompts) == 3
    for place, prompt in enumerate(prompts):
        row = dataset[place]
        assert tuple(builder.build_initial_tokens(row["raw_prompt"])) == prompt.token_ids
        assert row["reward_model"]["ground_truth"] == prompt.gold
        assert row["extra_info"]["index"] == place


def test_verls_reward_manager_gets_value_and_label_from_our_judge(run):
    """Our function through verl's own loader, and then through its manager, which decodes."""
    got, _, tokenizer = run
    function = get_custom_reward_fn(got)
    info = {"split": "train", "id": "7", "columns": ""}
    assert function(data_source="x", solution_str=r"\boxed{2/4}", ground_truth="0.5", extra_info=info) == {
        "score": 1.0, "acc": 1.0, "failed": 0.0, "prompt_id": "7",
    }  # fmt: skip
    ids = tokenizer("3", add_special_tokens=False, return_tensors="pt")["input_ids"]
    item = DataProto(
        batch=TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1),
        non_tensor_batch={
            name: _object(value)
            for name, value in {"data_source": "x", "reward_model": {"ground_truth": "3"}, "extra_info": info}.items()
        },
    )

    async def judged():
        manager = NaiveRewardManager(got, tokenizer, function)
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(item)

    outcome = asyncio.run(judged())  # `3` without a box is no answer to the strict profile
    assert outcome["reward_score"] == 0.0
    assert outcome["reward_extra_info"] == {"score": 0.0, "acc": 0.0, "failed": 0.0, "prompt_id": "7"}


def _object(value):
    array = np.empty(1, dtype=object)
    array[0] = value
    return array
