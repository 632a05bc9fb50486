"""The captioner against transformers' own BLIP-2 loop, on a tiny random model on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, Blip2ForConditionalGeneration, Blip2Processor, T5Config

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.prompt_synthesis.captions import FALLBACK_CAPTION, Blip2Captioner, Caption, CaptionSettings
from semaug.prompt_synthesis.prompts import SEMANTIC_EXTRACTION_PROMPTS
from semaug.prompt_synthesis.tiny_language_models import fix_logits, save_blip2

NAMES = tuple(SEMANTIC_EXTRACTION_PROMPTS)


@pytest.fixture(scope="session")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "blip2"
    save_blip2(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    sizes = [(40, 50), (32, 32), (3, 60), (70, 20), (33, 31)]
    return [(drawn.integers(0, 256, (h, w, 3)) // (i + 1)).astype(np.uint8) for i, (h, w) in enumerate(sizes)]


KEYS = [f"{i}.jpg" for i in range(5)]


def of_the_library(folder: Path, images: list[np.ndarray], prompt: str, tokens: int) -> list[str]:
    """One image at a time through ``generate``, the prompt sliced off."""
    processor = Blip2Processor.from_pretrained(folder, backend="pil")
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    said = []
    for image in images:
        text = SEMANTIC_EXTRACTION_PROMPTS[prompt]
        inputs = processor(images=image, text=text, input_data_format="channels_last", return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0]
        if not model.config.text_config.is_encoder_decoder:
            out = out[inputs.input_ids.shape[1] :]
        said.append(" ".join(processor.tokenizer.decode(out, skip_special_tokens=True).split()))
    return said


def test_captions_are_the_librarys_for_every_prompt_and_batch(blip2, images):
    expected = [of_the_library(blip2, images, name, 12) for name in NAMES]
    assert len({text for texts in expected for text in texts}) > len(NAMES)  # images and prompts both matter
    for size in (1, 4, 9):
        captioner = Blip2Captioner(blip2, settings=CaptionSettings(batch_size=size, max_new_tokens=12))
        found = captioner.caption_prompts(images, NAMES, 0, KEYS)
        assert [[captions[i].text for captions in found] for i in range(3)] == expected
    single = Blip2Captioner(blip2, prompt="objects", settings=CaptionSettings(max_new_tokens=12))
    assert [c.text for c in single.caption(images, 0, KEYS)] == expected[2]


def test_a_model_with_an_encoder_and_a_decoder_answers_alike(tmp_path, images):
    text = T5Config(
        vocab_size=400, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    save_blip2(tmp_path / "t5", text_config=text)
    found = Blip2Captioner(tmp_path / "t5", settings=CaptionSettings(max_new_tokens=8)).caption(images, 0, KEYS)
    assert [c.text for c in found] == of_the_library(tmp_path / "t5", images, "describe", 8)


def test_an_image_is_encoded_once_for_all_prompts(blip2, images, monkeypatch):
    encoded = []
    real = Blip2ForConditionalGeneration.get_image_features

    def counting(self, pixel_values, **options):
        encoded.append(len(pixel_values))
        return real(self, pixel_values, **options)

    monkeypatch.setattr(Blip2ForConditionalGeneration, "get_image_features", counting)
    captioner = Blip2Captioner(blip2, settings=CaptionSettings(batch_size=2, max_new_tokens=3))
    captioner.caption_prompts(images, NAMES, 0, KEYS)
    assert encoded == [2, 2, 1]


def fixed(source: Path, folder: Path, end: float) -> Path:
    """A model that answers alike everywhere: its logits are 0, and ``end`` for the end token."""
    model = Blip2ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        fix_logits(model.language_model, {2: end})
    model.save_pretrained(folder)
    Blip2Processor.from_pretrained(source).save_pretrained(folder)
    return folder


def test_an_empty_caption_is_asked_for_again_by_seed_and_key(blip2, tmp_path, images):
    silent = fixed(blip2, tmp_path / "likely_silent", 1.0)
    captioner = Blip2Captioner(silent, settings=CaptionSettings(max_new_tokens=6, top_p=1.0))
    found = captioner.caption(images, 0, KEYS)
    assert {c.attempts for c in found} <= {2, 3}
    assert not any(c.flagged for c in found)
    assert len({c.text for c in found}) > 1
    assert captioner.caption(images, 0, KEYS) == found
    assert captioner.caption(images, 1, KEYS) != found
    assert captioner.caption(images[::-1], 0, KEYS[::-1]) == found[::-1]  # no image's draws depend on its neighbours
    assert captioner.caption(images[2:3], 0, KEYS[2:3]) == found[2:3]


def test_a_silent_model_gives_the_flagged_literal(blip2, tmp_path, images):
    silent = fixed(blip2, tmp_path / "silent", 50.0)
    found = Blip2Captioner(silent, settings=CaptionSettings(max_attempts=4)).caption(images, 0, KEYS)
    assert found == [Caption(FALLBACK_CAPTION, flagged=True, truncated=False, attempts=4)] * 5
    assert FALLBACK_CAPTION == "a photo"


def test_a_caption_cut_off_is_marked(blip2, tmp_path, images):
    chatty = fixed(blip2, tmp_path / "chatty", -50.0)
    assert all(c.truncated for c in Blip2Captioner(chatty).caption(images, 0, KEYS))


def test_it_can_be_closed_and_used_again(blip2, images):
    captioner = Blip2Captioner(blip2, settings=CaptionSettings(max_new_tokens=4))
    found = captioner.caption(images, 0, KEYS)
    captioner.close()
    assert captioner.caption(images, 0, KEYS) == found
    assert captioner.caption([], 0, []) == []


def test_the_identity_follows_content_and_not_place(blip2, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere" / blip2.name
    shutil.copytree(blip2, moved)
    first, second = Blip2Captioner(blip2).identity(), Blip2Captioner(moved).identity()
    assert first == second
    assert first["model"] == "blip2"
    assert first["prompt"] == "Please describe the picture in detail."
    assert str(tmp_path) not in json.dumps(second)
    (moved / "generation_config.json").write_text("{}")
    assert Blip2Captioner(moved).identity() != first
    assert Blip2Captioner(blip2, prompt="objects").identity() != first


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda f, b: "missing/folder/here", MissingWeights, "no folder missing/folder/here"),
        (lambda f, b: f, MissingWeights, "holds no config.json"),
        (lambda f, b: (f / "model.gguf", (f / "model.gguf").write_bytes(b"x"))[0], InvalidOption, "is a file"),
        (lambda f, b: without_weights(f, b), MissingWeights, "holds no .safetensors"),
        (lambda f, b: pickled(f, b), InvalidOption, r"pickled weights only \(pytorch_model.bin\)"),
        (lambda f, b: half_there(f, b), MissingWeights, "lacks model-00002-of-2.safetensors, 1 of 2 shards"),
        (lambda f, b: of_kind(f, b), InvalidOption, "is a bert model, expected blip-2"),
        (lambda f, b: damaged(f, b), InvalidOption, "cannot be loaded"),
        (lambda f, b: copied(f, b, "tokenizer.json"), InvalidOption, "cannot be loaded: .*tokenizer"),
        (lambda f, b: copied(f, b, "processor_config.json"), InvalidOption, "cannot be loaded: .*image processor"),
    ],
)
def test_what_cannot_be_used_is_one_line(blip2, tmp_path, images, prepare, error, message):
    with pytest.raises(error, match=message) as caught:
        Blip2Captioner(prepare(tmp_path, blip2)).caption(images, 0, KEYS)
    assert "\n" not in str(caught.value)


def copied(folder: Path, blip2: Path, *left_out: str) -> Path:
    for file in blip2.iterdir():
        if file.name not in left_out:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def without_weights(folder, blip2):
    return copied(folder, blip2, "model.safetensors")


def pickled(folder, blip2):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    return copied(folder, blip2, "model.safetensors")


def half_there(folder, blip2):
    shards = {"a": "model-00001-of-2.safetensors", "b": "model-00002-of-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / shards["a"]).write_bytes(b"")
    return copied(folder, blip2, "model.safetensors")


def of_kind(folder, blip2):
    BertConfig().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def damaged(folder, blip2):
    copied(folder, blip2)
    (folder / "model.safetensors").write_bytes((blip2 / "model.safetensors").read_bytes()[:1000])
    return folder


def test_the_hub_is_not_asked_where_it_is_off(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"nobody/no-such-blip2 is no folder here nor in .*--offline"):
        Blip2Captioner("nobody/no-such-blip2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InvalidOption, match=message):
        CaptionSettings(**options)


def test_bad_options_are_refused(blip2, images):
    with pytest.raises(InvalidOption, match="did you mean 'describe'"):
        Blip2Captioner(blip2, prompt="descibe")
    with pytest.raises(InvalidOption, match="dtype is 'int8'"):
        Blip2Captioner(blip2, dtype="int8")
    with pytest.raises(InvalidOption, match="5 images and 1 keys"):
        Blip2Captioner(blip2).caption(images, 0, ["a"])
    with pytest.raises(InvalidOption, match=r"500 new ones, the language model has 256 places"):
        Blip2Captioner(blip2, settings=CaptionSettings(max_new_tokens=500)).caption(images, 0, KEYS)
