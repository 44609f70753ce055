"""The bundled model: its files, its tokenizer's promises, its chat template, and that transformers loads it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unsay
from unsay.loading import newline_ids, read_undo_file

FOLDER = Path(unsay.__file__).parent / "assets" / "unsay-tiny"
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>"]


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER)


def test_the_folder_holds_what_from_pretrained_needs_and_no_pickle():
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "undo.json",
    ]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_any_text_survives_encoding(tokenizer):
    @given(st.text())
    def check(text):
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()


def test_every_byte_is_in_the_vocabulary(tokenizer):
    text = "".join(map(chr, range(0x800))) + "\U0001f600\uffff\U0010ffff"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_digit_and_every_line_break_stands_alone(tokenizer):
    @given(st.text(alphabet="0123456789\n\r Aa.=<>", max_size=40))
    def check(text):
        pieces = [tokenizer.decode([id]) for id in tokenizer.encode(text)]
        assert all(len(piece) == 1 for piece in pieces if any(mark in piece for mark in "0123456789\n"))

    check()


def test_every_digit_and_every_line_break_is_one_id(tokenizer):
    assert all(len(tokenizer.encode(mark)) == 1 for mark in "0123456789\n")
    holding_a_break = [id for id in range(len(tokenizer)) if "\n" in tokenizer.decode([id])]
    assert holding_a_break == tokenizer.encode("\n")


def test_control_tokens_are_one_special_id_each(tokenizer):
    reserved = [token for token in tokenizer.get_vocab() if token.startswith("<|reserved_")]
    assert len(reserved) >= 4
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    for token in CONTROLS + reserved:
        assert len(tokenizer.encode(token)) == 1
        assert added[token]
        # As part of what a user wrote, the spelling is ordinary text.
        assert tokenizer.convert_tokens_to_ids(token) not in tokenizer.encode(token, split_special_tokens=True)


def test_the_undo_table_names_the_tokens_of_this_tokenizer(tokenizer):
    undo = read_undo_file(FOLDER / "undo.json")
    kinds = {undo.table.names[id]: action.kind for id, action in undo.table.actions.items()}
    assert kinds == {"<|BACKTRACK|>": "pop", "<|BACKTRACK_LINE|>": "pop_line", "<|RESET|>": "pop_all"}
    assert all(tokenizer.convert_tokens_to_ids(name) == id for id, name in undo.table.names.items())
    assert undo.table.newline_ids == newline_ids(tokenizer)
    assert undo.trained == tuple(undo.table.actions)
    assert undo.context == "keep"


def test_encode_adds_nothing_and_the_roles_of_special_tokens_are_set(tokenizer):
    assert tokenizer.is_fast
    assert tokenizer.encode("") == []
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)


def test_the_chat_template_is_chatml(tokenizer):
    user = {"role": "user", "content": "Question: 1?\nAnswer:"}
    turns = [{"role": "system", "content": "s"}, user, {"role": "assistant", "content": "#### 1"}, user]
    one = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert one == "<|im_start|>user\nQuestion: 1?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<|im_start|>system\ns<|im_end|>\n"
        "<|im_start|>user\nQuestion: 1?\nAnswer:<|im_end|>\n"
        "<|im_start|>assistant\n#### 1<|im_end|>\n"
        "<|im_start|>user\nQuestion: 1?\nAnswer:<|im_end|>\n"
    )


def test_a_prompt_and_its_answer_are_cut_between_tokens(tokenizer):
    """Prompt and answer are encoded apart in training and generation, together in few-shot examples."""
    prompt, answer = "Question: Tom has 12 apples.\nAnswer:", " Ben has 12/2=<<12/2=6>>6 apples.\n#### 6"
    assert tokenizer.encode(prompt + answer) == tokenizer.encode(prompt) + tokenizer.encode(answer)
    chat, answer = "<|im_start|>assistant\n", answer.strip()
    assert tokenizer.encode(chat + answer) == tokenizer.encode(chat) + tokenizer.encode(answer)


def test_the_model_loads_as_described(model, tokenizer):
    config = model.config
    assert config.model_type == "qwen3"
    assert (config.vocab_size, config.max_position_embeddings) == (len(tokenizer), 8192)
    assert config.tie_word_embeddings
    assert str(model.dtype) == "torch.float32"
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


@pytest.mark.parametrize("chat", [False, True])
def test_it_answers_a_one_step_problem_and_stops(model, tokenizer, chat):
    prompt = "Question: Mia has 12 apples. Ben has 3 more apples than Mia. How many apples does Ben have?\nAnswer:"
    if chat:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :]
    answer = tokenizer.decode(ids)
    assert "12+3=<<12+3=15>>15 apples." in answer
    assert "#### 15" in answer
