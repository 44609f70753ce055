"""Tiny real models for tests: random weights, a byte-level BPE tokenizer trained on a few lines, safetensors.

tiny_model(folder, family="qwen3", tie=True)          # a folder that transformers loads like any other model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "gemma3", "gpt2")

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

LLAMA3 = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_SPECIALS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
CONTROLS = ("<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>")

CORPUS = (
    "Tom has 12 apples and buys 7 more. How many apples does Tom have now?",
    "Tom has 12 + 7 = <<12+7=19>>19 apples.\n#### 19",
    "Anna reads 15 pages a day for 4 days. How many pages does she read?",
    "She reads 15 * 4 = <<15*4=60>>60 pages.\nThat is all of them.\n#### 60",
    "delete undo erase remove retract mistake error wrong previous token line take back start again",
    "user\nassistant\nsystem\nThe answer to the question is the number of things that are left.",
)


def tiny_tokenizer(
    specials: Sequence[str] = SPECIALS,
    *,
    chat_template: str | None = CHATML,
    eos: str = "<|im_end|>",
    bos: str | None = None,
    vocabulary: int = 400,
) -> Any:
    """Return a byte-level BPE tokenizer whose special tokens are `specials`; with `bos` it writes one by itself."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    pieces = r"\n|\d| ?[A-Za-z]+|[^\sA-Za-z\d]+|\s"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=specials[0], bos_token=bos)
    tokenizer.chat_template = chat_template
    return tokenizer


def llama3_tokenizer() -> Any:
    """Return a tokenizer that writes a beginning token by itself and whose template renders it too."""
    specials = (*LLAMA3_SPECIALS, "<|reserved_special_token_0|>", "<|reserved_special_token_1|>")
    return tiny_tokenizer(specials, chat_template=LLAMA3, eos="<|eot_id|>", bos="<|begin_of_text|>")


def tiny_model(
    folder: Path,
    family: str = "qwen3",
    *,
    tokenizer: Any = None,
    controls: Sequence[str] = (),
    spare_rows: int = 16,
    tie: bool = True,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    window: int | None = None,
) -> Path:
    """Write a random model and its tokenizer into `folder` and return it.

    `controls` puts those control tokens into the tokenizer; `spare_rows` is how many embedding rows lie beyond it;
    `window` is how far a sliding layer sees, in the families that have one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if tokenizer is None:
        tokenizer = llama3_tokenizer() if family == "llama" else tiny_tokenizer((*SPECIALS, *controls))
    torch.manual_seed(seed)
    config = _config(family, len(tokenizer) + spare_rows, tie, layers, hidden, window)
    config.eos_token_id = tokenizer.eos_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and parameter.dim() > 1:
                parameter.mul_(4.0)  # transformers starts so small that all logits are nearly equal
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, rows: int, tie: bool, layers: int, hidden: int, window: int | None) -> Any:
    import transformers

    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=rows, n_embd=hidden, n_layer=layers, n_head=4, n_positions=512, tie_word_embeddings=tie
        )
    common: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tie,
    }
    kinds = {
        "qwen3": transformers.Qwen3Config,
        "qwen2": transformers.Qwen2Config,
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "gemma3": transformers.Gemma3TextConfig,
    }
    if window is not None:
        common["sliding_window"] = window
        if family == "gemma3":
            common["layer_types"] = ["sliding_attention", "full_attention"] * (layers // 2)
    if family == "qwen2":
        del common["head_dim"]
    return kinds[family](**common)
