"""Evaluation folders made by hand."""

import json

from ngrpo.record import append_lines, write_json, write_lines


def rows_of(prompt, num_correct, num_samples, **changes):
    """`num_samples` lines of a prompt, the first `num_correct` of them correct."""
    rows = []
    for sample in range(num_samples):
        is_right = sample < num_correct
        row = {
            "prompt": prompt,
            "sample": sample,
            "completion": "...",
            "gold": "1",
            "correct": is_right,
            "value": float(is_right),
            "kind": "scored",
            "normal_form": "1" if is_right else "2",
            "tokens": 4,
            "entropy_nats": 0.5,
            "finish_reason": "eos",
        }
        rows.append(row | changes)
    return rows


def make_folder(folder, rows, *, prompts, num_samples, strata=None, num_prompts=None):
    """An evaluation folder with these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"num_samples": num_samples, "num_prompts": num_prompts or len(prompts), "data": "made", "ks": []}
    write_json(folder / "eval.json", {"settings": json.loads(json.dumps(settings))})
    problems = ({"prompt": name, "gold": "1", "problem": "?", **(strata or {}).get(name, {})} for name in prompts)
    write_lines(folder / "problems.jsonl", problems)
    append_lines(folder / "samples.jsonl", rows)
    return folder
