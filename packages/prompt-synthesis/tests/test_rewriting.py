"""Rewriting by tiny causal models on disk, its sampling against the distribution, its cuts against the tokenizer."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, T5Config

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.prompt_synthesis.prompts import clean_rewrite, drawn_prompt
from semaug.prompt_synthesis.rewriting import CausalRewriter, Rewrite, RewriteSettings
from semaug.prompt_synthesis.sampling import LineEnds, SeededSampling
from semaug.prompt_synthesis.tiny_language_models import (
    save_clip_tokenizer,
    save_fixed_opt,
    save_llama,
    tiny_tokenizer,
)
from semaug.prompt_synthesis.token_limits import ClipLimit, EstimatedLimit, fit, open_clip_limit

CAPTIONS = ["a red car on a street", "two dogs", "a bowl of fruit on a wooden table by a window", "a fish"]
KEYS = ["0.jpg", "1.jpg", "2.jpg", "0.jpg"]
DRAWS = [1, 1, 1, 2]
LIKELIEST = RewriteSettings(temperature=0.0, max_new_tokens=10)
SAMPLED = RewriteSettings(max_new_tokens=10)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_llama(folder)
    return folder


@pytest.fixture(scope="session")
def chat_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chat_llama"
    save_llama(folder, chat=True)
    return folder


def of_the_library(folder: Path, tokens: int) -> list[str]:
    """One prompt at a time through ``generate``, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    said = []
    for caption, key, draw in zip(CAPTIONS, KEYS, DRAWS, strict=True):
        prompt, _ = drawn_prompt("rewriting", caption, key, draw, seed=0)
        if tokenizer.chat_template:
            text = f"<|user|>{prompt}<|end|><|assistant|>"
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        else:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        text = tokenizer.decode(out, skip_special_tokens=True)
        said.append(text if tokenizer.chat_template else text.split("\n")[0])
    return [fit(clean_rewrite(text), EstimatedLimit())[0] for text in said]


@pytest.mark.parametrize("model", ["llama", "chat_llama"])
def test_the_likeliest_texts_are_the_librarys_at_every_batch(model, request):
    folder = request.getfixturevalue(model)
    expected = of_the_library(folder, 10)
    assert len(set(expected)) > 2
    for size in (1, 3, 8):
        found = CausalRewriter(folder, LIKELIEST, batch_size=size).rewrite(CAPTIONS, KEYS, DRAWS, 0)
        assert [r.text for r in found] == expected
        assert [r.examples for r in found] == [
            drawn_prompt("rewriting", c, k, d, 0)[1] for c, k, d in zip(CAPTIONS, KEYS, DRAWS, strict=True)
        ]


def test_a_sampled_text_depends_on_its_own_seed_key_and_draw(llama):
    rewriter = CausalRewriter(llama, SAMPLED, batch_size=4)
    found = rewriter.rewrite(CAPTIONS, KEYS, DRAWS, 0)
    assert rewriter.rewrite(CAPTIONS, KEYS, DRAWS, 0) == found
    assert rewriter.rewrite(CAPTIONS[::-1], KEYS[::-1], DRAWS[::-1], 0) == found[::-1]
    for i in range(4):
        assert rewriter.rewrite([CAPTIONS[i]], [KEYS[i]], [DRAWS[i]], 0) == [found[i]]
    again = rewriter.rewrite([CAPTIONS[0]] * 3, ["0.jpg", "0.jpg", "9.jpg"], [2, 1, 1], 0)
    assert len({found[0].text, again[0].text, again[2].text}) == 3
    assert again[1] == found[0]
    assert rewriter.rewrite(CAPTIONS, KEYS, DRAWS, 1) != found


def test_the_global_generator_is_left_alone(llama):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    CausalRewriter(llama, SAMPLED).rewrite(CAPTIONS[:1], KEYS[:1], DRAWS[:1], 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_drawn_tokens_follow_the_distribution(top_p):
    logits = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.9, -float("inf")])
    weights = np.exp(logits.double().numpy() / 0.8)
    weights /= weights.sum()
    order = np.argsort(-weights)
    head = order[: 1 + np.searchsorted(np.cumsum(weights[order]), top_p)] if top_p < 1 else order
    expected = np.zeros(6)
    expected[head] = weights[head] / weights[head].sum()
    draws = SeededSampling([draw_key(0, "test", 0, str(i)) for i in range(6000)], 0.8, top_p)
    for _ in range(2):  # later steps are other numbers of the same draws
        chosen = draws(torch.zeros(6000, 1), logits.repeat(6000, 1)).argmax(-1).numpy()
        counts = np.bincount(chosen, minlength=6)
        assert (counts[expected == 0] == 0).all()
        kept = expected > 0
        assert stats.chisquare(counts[kept], 6000 * expected[kept]).pvalue > 1e-3


def test_steps_and_rows_are_drawn_apart():
    keys = [draw_key(0, "test", 0, str(i)) for i in range(500)]
    draws, flat = SeededSampling(keys, 1.0, 1.0), torch.zeros(500, 50)
    first, second = (draws(flat, flat).argmax(-1).double().numpy() for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.15


def test_a_temperature_of_nothing_takes_the_likeliest():
    scores = torch.tensor([[0.0, 3.0, 1.0]])
    assert SeededSampling([1], 0.0, 0.5)(scores, scores).argmax().item() == 1


def test_a_row_is_done_when_its_line_ends():
    tokenizer = tiny_tokenizer()
    newline, letter = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("\n", "x"))
    rows = torch.tensor([[newline, letter], [letter, newline]])
    assert LineEnds(tokenizer)(rows, None).tolist() == [False, True]


def test_a_line_end_first_is_an_empty_answer_and_asked_again(tmp_path):
    newline = tiny_tokenizer()("\n", add_special_tokens=False).input_ids[0]
    save_fixed_opt(tmp_path, {newline: 50.0})
    settings = RewriteSettings(max_new_tokens=30, max_attempts=2)
    found = CausalRewriter(tmp_path, settings).rewrite(CAPTIONS, KEYS, DRAWS, 0)
    assert [(r.text, r.flagged, r.attempts) for r in found] == [(caption, True, 2) for caption in CAPTIONS]


def test_generation_ends_with_the_line(tmp_path):
    tokenizer = tiny_tokenizer()
    newline, letter = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("\n", "x"))
    save_fixed_opt(tmp_path, {newline: 50.0, letter: 50.0})
    settings = RewriteSettings(max_new_tokens=60, max_attempts=20)
    found = CausalRewriter(tmp_path, settings).rewrite(CAPTIONS, KEYS, DRAWS, 0)
    assert all(set(r.text) == {"x"} and not r.truncated for r in found)
    save_fixed_opt(tmp_path, {letter: 50.0})
    found = CausalRewriter(tmp_path, RewriteSettings(max_new_tokens=6)).rewrite(CAPTIONS, KEYS, DRAWS, 0)
    assert [(r.text, r.truncated) for r in found] == [("x" * 6, True)] * 4


def test_a_silent_model_leaves_the_flagged_caption(tmp_path):
    save_fixed_opt(tmp_path, {2: 50.0})
    found = CausalRewriter(tmp_path, RewriteSettings(max_attempts=2, kind="none")).rewrite(CAPTIONS, KEYS, DRAWS, 0)
    assert found == [Rewrite(caption, False, (), True, 2) for caption in CAPTIONS]


def test_a_mostly_silent_model_is_asked_again(tmp_path):
    letter = tiny_tokenizer()("x", add_special_tokens=False).input_ids[0]
    save_fixed_opt(tmp_path, {2: 51.0, letter: 50.0})
    settings = RewriteSettings(max_attempts=30, max_new_tokens=5, kind="none", top_p=1.0)
    rewriter = CausalRewriter(tmp_path, settings)
    found = rewriter.rewrite(CAPTIONS * 3, [str(i) for i in range(12)], [1] * 12, 0)
    assert not any(r.flagged for r in found)
    assert len({r.attempts for r in found}) > 1
    assert rewriter.rewrite(CAPTIONS[:1], ["0"], [1], 0) == found[:1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipLimit:
    folder = tmp_path_factory.mktemp("generator")
    save_clip_tokenizer(folder)
    return open_clip_limit(folder)


def test_clip_tokens_are_counted_by_the_generators_tokenizer(clip):
    assert clip.limit == 77
    assert clip.count("a red car.") == 2 + len("aredcar.")
    assert clip.identity() != EstimatedLimit().identity()
    assert EstimatedLimit().identity()["tokens"] == "estimated"
    copy = pickle.loads(pickle.dumps(clip))
    assert copy == clip
    assert copy.count("a red car.") == clip.count("a red car.")
    assert clip.source not in json.dumps(clip.identity())


def test_a_tokenizer_with_a_shorter_context_limits_more(tmp_path):
    save_clip_tokenizer(tmp_path, length=20)
    assert fit("aaaa " * 20, open_clip_limit(tmp_path)) == ("aaaa aaaa aaaa aaaa", True)


def test_the_tokenizer_of_a_hub_id_is_not_fetched_where_the_hub_is_off(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights, match=r"nobody/no-such-generator is no folder here nor in .*--offline"):
        open_clip_limit("nobody/no-such-generator")


@given(words=st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=40))
def test_a_text_is_cut_after_its_last_word_that_fits(clip, words):
    text = " ".join(words)
    kept, cut = fit(text, clip)
    assert cut == (clip.count(text) > 77)
    assert clip.count(kept) <= 77
    assert text.startswith(kept)
    if cut:
        count = len(kept.split())
        assert kept.split() == words[:count]
        assert clip.count(" ".join(words[: count + 1])) > 77


def test_a_word_that_is_too_long_is_cut_inside(clip):
    assert fit("a" * 200, clip) == ("a" * 75, True)
    with pytest.raises(InvalidOption, match="the limit is 2 tokens"):
        fit("a cat", EstimatedLimit(2))


def test_a_rewrite_over_the_limit_is_cut_and_says_so(clip, tmp_path):
    letter = tiny_tokenizer()("x", add_special_tokens=False).input_ids[0]
    save_fixed_opt(tmp_path, {letter: 50.0})
    settings = RewriteSettings(max_new_tokens=100, limit=clip, kind="none")
    assert CausalRewriter(tmp_path, settings).rewrite(["a"], ["k"], [1], 0) == [Rewrite("x" * 75, True, ())]


def test_the_identity_names_what_decides(llama, clip):
    first = CausalRewriter(llama, LIKELIEST).identity()
    assert first == CausalRewriter(llama, LIKELIEST, batch_size=3).identity()
    assert first["model"] == "llama"
    assert str(llama.parent) not in json.dumps(first)
    for other in (SAMPLED, RewriteSettings(kind="none"), RewriteSettings(limit=clip), RewriteSettings(examples=3)):
        assert CausalRewriter(llama, other).identity() != first


def test_a_model_in_the_hubs_cache_is_found_by_its_id(llama, monkeypatch, tmp_path):
    model, commit = tmp_path / "models--nobody--tiny-llama", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(llama, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = CausalRewriter("nobody/tiny-llama", SAMPLED)
    for name in (None, "main", commit):
        identity = CausalRewriter("nobody/tiny-llama", SAMPLED, revision=name).identity()
        assert (identity["model"], identity["revision"]) == ("nobody/tiny-llama", commit)
    assert found.rewrite(CAPTIONS, KEYS, DRAWS, 0) == CausalRewriter(llama, SAMPLED).rewrite(CAPTIONS, KEYS, DRAWS, 0)


def bert(folder):
    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def t5(folder):
    T5Config().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def pickled(folder):
    T5Config().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda f: f / "none", MissingWeights, "there is no folder"),
        (bert, InvalidOption, "is a BertForMaskedLM, expected a causal"),
        (t5, InvalidOption, "is a t5, expected a causal"),
        (pickled, InvalidOption, "pickled weights only"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, prepare, error, message):
    with pytest.raises(error, match=message) as caught:
        CausalRewriter(prepare(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_model_without_its_tokenizer_is_one_line(llama, tmp_path):
    for file in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / file).write_bytes((llama / file).read_bytes())
    with pytest.raises(InvalidOption, match=r"the rewriter: .* cannot be loaded: .*tokenizer") as caught:
        CausalRewriter(tmp_path).load()
    assert "\n" not in str(caught.value)


def test_bad_options_are_refused(llama, tmp_path):
    with pytest.raises(InvalidOption, match="unknown kind 'rewrite'"):
        RewriteSettings(kind="rewrite")
    with pytest.raises(InvalidOption, match="101 examples a prompt, the bank holds 100"):
        RewriteSettings(examples=101)
    with pytest.raises(InvalidOption, match="max_new_tokens is 0"):
        RewriteSettings(max_new_tokens=0)
    with pytest.raises(InvalidOption, match=r"top_p is 0\.0"):
        RewriteSettings(top_p=0.0)
    with pytest.raises(InvalidOption, match="batch_size is 0"):
        CausalRewriter(llama, batch_size=0)
    with pytest.raises(InvalidOption, match="2 captions, 1 keys and 1 draws"):
        CausalRewriter(llama).rewrite(["a", "b"], ["a"], [1], 0)
    with pytest.raises(InvalidOption, match="the model has 4096 places"):
        CausalRewriter(llama, RewriteSettings(max_new_tokens=4000)).rewrite(CAPTIONS, KEYS, DRAWS, 0)
    with pytest.raises(MissingWeights, match="no CLIP tokenizer"):
        open_clip_limit(tmp_path)
