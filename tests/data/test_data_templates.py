import pytest

from ngrpo.data import PAPER_TEMPLATE, load_prompts, make_template
from ngrpo.errors import ConfigError

ROWS = [{"id": "a", "problem": "1+1?", "answer": "2"}, {"id": "b", "problem": "Say {prompt} {x}", "answer": "3"}]


def texts_of(prompts):
    return [prompt.text for prompt in prompts.prompts]


def test_auto_is_the_chat_template_where_there_is_one(write_rows, chat_tokenizer):
    prompts = load_prompts(write_rows(ROWS), chat_tokenizer)
    assert texts_of(prompts) == ["<bos>[user]1+1?[assistant]", "<bos>[user]Say {prompt} {x}[assistant]"]


def test_auto_is_the_bare_text_otherwise(write_rows, tokenizer):
    assert texts_of(load_prompts(write_rows(ROWS), tokenizer)) == ["1+1?", "Say {prompt} {x}"]


def test_none_is_the_bare_text(write_rows, chat_tokenizer):
    assert texts_of(load_prompts(write_rows(ROWS), chat_tokenizer, template="none")) == ["1+1?", "Say {prompt} {x}"]


def test_the_system_prompt_comes_first(write_rows, chat_tokenizer):
    prompts = load_prompts(write_rows(ROWS[:1]), chat_tokenizer, system_prompt="Be brief.")
    assert texts_of(prompts) == ["<bos>[system]Be brief.[user]1+1?[assistant]"]


def test_only_the_placeholder_of_a_text_is_replaced(write_rows, tokenizer):
    prompts = load_prompts(write_rows(ROWS), tokenizer, template="{a} {prompt} \\boxed{} %s {0}")
    assert texts_of(prompts) == ["{a} 1+1? \\boxed{} %s {0}", "{a} Say {prompt} {x} \\boxed{} %s {0}"]


def test_the_template_of_the_paper():
    assert make_template("paper", None).render(["1+1?"]) == [
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n1+1?\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    ]
    assert PAPER_TEMPLATE.count("{prompt}") == 1


def ids_of(write_rows, tokenizer, **kwargs):
    (prompt,) = load_prompts(write_rows(ROWS[:1]), tokenizer, **kwargs).prompts
    return prompt.token_ids


def body_of(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_chat_template_gets_no_second_opening(write_rows, chat_tokenizer):
    ids = ids_of(write_rows, chat_tokenizer)
    assert ids == (0, *body_of(chat_tokenizer, "[user]1+1?[assistant]"))


def test_a_bare_text_is_opened_once(write_rows, make_tokenizer):
    tokenizer = make_tokenizer(opens=True)
    assert ids_of(write_rows, tokenizer) == (0, *body_of(tokenizer, "1+1?"))
    assert ids_of(write_rows, tokenizer, template="<bos>{prompt}") == (0, *body_of(tokenizer, "1+1?"))
    # Without a tokenizer that opens, nothing is opened.
    assert ids_of(write_rows, make_tokenizer()) == body_of(tokenizer, "1+1?")


def test_a_prompt_is_not_closed(write_rows, make_tokenizer):
    tokenizer = make_tokenizer(opens=True, closes=True)
    assert ids_of(write_rows, tokenizer) == (0, *body_of(tokenizer, "1+1?"))
    # Unless the template says so itself.
    ids = ids_of(write_rows, tokenizer, template="{prompt}<eos>")
    assert ids[-1] == 1


def test_a_text_without_placeholder_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"data\.template = 'papper' has no \{prompt\} in it and is none of 'auto'"):
        make_template("papper", tokenizer)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("auto", "the tokenizer has no chat template"),
        ("none", "data.template is 'none'"),
        ("paper", "data.template is"),
    ],
)
def test_a_system_prompt_without_a_place_is_refused(tokenizer, template, why):
    with pytest.raises(ConfigError, match=rf"data\.system_prompt is only used by a chat template, but {why}"):
        make_template(template, tokenizer, "Be brief.")


def test_a_chat_template_that_refuses_is_reported(make_tokenizer):
    strict = make_tokenizer(
        chat_template="{% if messages[0].role == 'system' %}{{ raise_exception('No system role.') }}{% endif %}ok"
    )
    with pytest.raises(
        ConfigError, match=r"cannot be filled with a system message: No system role\..*leave data\.system_prompt out"
    ):
        make_template("auto", strict, "Be brief.").render(["1+1?"])
    assert make_template("auto", strict).render(["1+1?"]) == ["ok"]
