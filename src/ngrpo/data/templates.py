"""From a problem to the text that the model reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ngrpo.errors import ConfigError

# The prompt of the paper's training and evaluation code for Qwen2.5-Math (nangongrui-ngr/NGRPO, rl_dataset.py,
# prompt type "qwen"). Qwen's own model card puts the instruction into the system message instead.
PAPER_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{prompt}\n"
    "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class Template:
    """How problems become prompts.

    Attributes:
        name: `chat`, `none`, `paper` or `text`.
        render: Problem texts in, prompt texts out, one for one.
        has_special_tokens: Whether the text brings its own special tokens, so that the tokenizer must add none.
    """

    name: str
    render: Callable[[Sequence[str]], list[str]]
    has_special_tokens: bool


def make_template(template: str, tokenizer: Any, system_prompt: str | None = None) -> Template:
    r"""Find the template that a setting names.

    Args:
        template: `auto` (the tokenizer's chat template with the marks that open an answer, else the bare text),
            `none` (the bare text), `paper`, or a text with `{prompt}` in it. Only `{prompt}` is replaced: other
            braces stay as they are.
        tokenizer: The model's tokenizer.
        system_prompt: System message of the chat template.

    Returns:
        The template.

    Raises:
        ConfigError: The template names nothing and has no `{prompt}`, or there is a system prompt without a chat
            template to put it in.

    Example:
        >>> make_template("Q: {prompt}\nA: {", None).render(["1+1?"])
        ['Q: 1+1?\nA: {']
    """
    if template == "auto" and getattr(tokenizer, "chat_template", None):
        return Template("chat", _chat_renderer(tokenizer, system_prompt), has_special_tokens=True)
    if system_prompt is not None:
        why = "the tokenizer has no chat template" if template == "auto" else f"data.template is {template!r}"
        raise ConfigError(
            f"data.system_prompt is only used by a chat template, but {why}. Write the system message into "
            "data.template, around {prompt}."
        )
    if template in ("auto", "none"):
        return Template("none", list, has_special_tokens=False)
    text = PAPER_TEMPLATE if template == "paper" else template
    if "{prompt}" not in text:
        raise ConfigError(
            f"data.template = {template!r} has no {{prompt}} in it and is none of 'auto', 'none' and 'paper'."
        )

    def fill(texts: Sequence[str]) -> list[str]:
        return [text.replace("{prompt}", problem) for problem in texts]

    return Template("paper" if template == "paper" else "text", fill, has_special_tokens=False)


def _chat_renderer(tokenizer: Any, system_prompt: str | None) -> Callable[[Sequence[str]], list[str]]:
    import jinja2

    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

    def render(texts: Sequence[str]) -> list[str]:
        chats = [[*system, {"role": "user", "content": text}] for text in texts]
        try:
            return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise ConfigError(
                f"the tokenizer's chat template cannot be filled{' with a system message' if system else ''}: "
                f"{error}. Set data.template to a text with {{prompt}} in it"
                f"{', or leave data.system_prompt out' if system else ''}."
            ) from error

    return render
