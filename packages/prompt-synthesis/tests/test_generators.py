"""Generators: diffusers' real pipelines with small random weights, saved to a disk and loaded by the user's path."""

from __future__ import annotations

import json
import shutil
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.prompt_synthesis import tiny_diffusion_models as tiny
from semaug.prompt_synthesis.ade20k import to_colours
from semaug.prompt_synthesis.diffusion_folders import open_generator, pipeline_identity
from semaug.prompt_synthesis.generators import KINDS, DiffusionGenerator, GenerationSettings
from semaug.prompt_synthesis.visual_prompts import VisualPrompt

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

SETTINGS = GenerationSettings(steps=3, size=tiny.SIDE, guidance=4.0, strength=0.7)
PROMPTS = ["a red car", "two cats", "a red car"]
SEEDS = [1, 2, 2**63]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion")
    tiny.save_stable_diffusion(folder / "sd")
    tiny.save_stable_diffusion(folder / "always", safety="always")
    tiny.save_stable_diffusion(folder / "never", safety="never")
    tiny.save_sdxl(folder / "xl")
    tiny.save_controlnet(folder / "net")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def visual_prompts() -> list[VisualPrompt]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 56, 3)).astype(np.uint8) for _ in PROMPTS]
    maps = [to_colours(rng.integers(0, 150, (5, 7)).repeat(8, 0).repeat(8, 1)) for _ in PROMPTS]
    return [VisualPrompt(i, m) for i, m in zip(images, maps, strict=True)]


def make(models: Path, kind: str, model: str = "sd", **options: Any) -> DiffusionGenerator:
    net = models / "net" if KINDS[kind].control else None
    return open_generator(kind, models / model, net, **{"settings": SETTINGS, "batch_size": 2, **options})


def images_of(generator: DiffusionGenerator, prompts: list[str] = PROMPTS, seeds: list[int] = SEEDS) -> np.ndarray:
    return np.stack([one.image for one in generator.generate(prompts, visual_prompts()[: len(prompts)], seeds)])


def bare(pipeline: Any, kind: str) -> Iterator[np.ndarray]:
    """One image at a time by the library's own call, from Pillow images, with its own text encoding."""
    from PIL import Image

    for prompt, visual, seed in zip(PROMPTS, visual_prompts(), SEEDS, strict=True):
        init = Image.fromarray(visual.init).resize((tiny.SIDE,) * 2, Image.Resampling.LANCZOS)
        control = Image.fromarray(visual.control).resize((tiny.SIDE,) * 2, Image.Resampling.NEAREST)
        size = {"height": tiny.SIDE, "width": tiny.SIDE}
        arguments: dict[str, Any] = {
            "text2img": size,
            "img2img": {"image": init, "strength": 0.7},
            "controlnet": {"image": control, **size},
            "controlnet-img2img": {
                "image": init,
                "control_image": control,
                "strength": 0.7,
                "controlnet_conditioning_scale": 1.0,
            },
        }[kind]
        generator = torch.Generator("cpu").manual_seed(seed)
        out = pipeline(prompt=prompt, num_inference_steps=3, guidance_scale=4.0, generator=generator, **arguments)
        yield np.array(out.images[0])


@pytest.mark.parametrize(
    ("kind", "model", "name"),
    [
        ("text2img", "sd", "StableDiffusionPipeline"),
        ("img2img", "sd", "StableDiffusionImg2ImgPipeline"),
        ("controlnet", "sd", "StableDiffusionControlNetPipeline"),
        ("controlnet-img2img", "sd", "StableDiffusionControlNetImg2ImgPipeline"),
        ("img2img", "xl", "StableDiffusionXLImg2ImgPipeline"),
    ],
)
def test_every_kind_equals_the_library_bit_for_bit_and_again_on_a_rerun(models, kind, model, name):
    import diffusers

    ours = make(models, kind, model, batch_size=1)
    more = {"controlnet": diffusers.ControlNetModel.from_pretrained(models / "net")} if KINDS[kind].control else {}
    pipeline = getattr(diffusers, name).from_pretrained(models / model, use_safetensors=True, **more)
    pipeline.set_progress_bar_config(disable=True)
    expected = np.stack(list(bare(pipeline, kind)))
    np.testing.assert_array_equal(images_of(ours), expected)
    assert expected.shape == (3, tiny.SIDE, tiny.SIDE, 3)
    assert len(np.unique(expected.reshape(3, -1), axis=0)) == 3
    two = make(models, kind, model)
    first = images_of(two)
    np.testing.assert_array_equal(images_of(two), first)
    assert np.abs(first.astype(int) - expected).max() <= 1


def test_a_prompt_is_encoded_once_and_alone_whatever_came_before(models):
    generator = make(models, "text2img")
    calls: list[int] = []
    encoder = generator._pipeline.text_encoder
    encoder.register_forward_hook(lambda *_: calls.append(1))
    images_of(generator)
    assert len(calls) == 4  # two distinct prompts, and the empty one twice: encode_prompt gives both together
    images_of(generator, ["two cats", "two cats"], [7, 8])
    assert len(calls) == 4


@pytest.mark.parametrize(("kind", "model"), [("img2img", "sd"), ("controlnet-img2img", "sd"), ("img2img", "xl")])
def test_an_image_is_encoded_once_for_all_of_its_prompts_and_to_the_same_bits(models, kind, model):
    def encodings(generator: DiffusionGenerator) -> list[int]:
        calls: list[int] = []
        generator._pipeline.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
        return calls

    shared = [visual_prompts()[0]] * 3 + [visual_prompts()[1]]
    texts, seeds = ["a", "b", "c", "d"], [1, 2, 3, 4]
    together = make(models, kind, model)
    calls = encodings(together)
    made = [one.image for one in together.generate(texts, shared, seeds)]
    assert len(calls) == 2
    for start in (0, 2):  # a generator that has seen nothing
        part, fresh = slice(start, start + 2), make(models, kind, model)
        fresh._encodings._kept = deque(maxlen=0)
        calls = encodings(fresh)
        again = [one.image for one in fresh.generate(texts[part], shared[part], seeds[part])]
        np.testing.assert_array_equal(again, made[part])
        assert len(calls) == 2


def test_a_prompt_gives_the_same_after_others(models):
    used, fresh = make(models, "text2img"), make(models, "text2img")
    images_of(used)
    np.testing.assert_array_equal(images_of(used, ["two cats"], [9]), images_of(fresh, ["two cats"], [9]))


def test_prompt_seed_image_and_map_each_matter(models):
    generator = make(models, "controlnet-img2img", batch_size=1)
    [plain] = [o.image for o in generator.generate(["a"], visual_prompts()[:1], [1])]
    other = visual_prompts()[1]
    for prompt, visual, seed in (
        ("a cathedral at night", visual_prompts()[0], 1),
        ("a", visual_prompts()[0], 2),
        ("a", VisualPrompt(other.init, visual_prompts()[0].control), 1),
        ("a", VisualPrompt(visual_prompts()[0].init, other.control), 1),
    ):
        [changed] = [o.image for o in generator.generate([prompt], [visual], [seed])]
        assert (changed != plain).any()


def test_a_controlnet_at_scale_zero_is_text2img(models):
    settings = GenerationSettings(steps=3, size=tiny.SIDE, guidance=4.0, control_scale=0.0)
    controlled = images_of(make(models, "controlnet", settings=settings))
    np.testing.assert_array_equal(controlled, images_of(make(models, "text2img")))
    assert (images_of(make(models, "controlnet")) != controlled).any()


def test_the_negative_prompt_counts_under_guidance_alone(models):
    def settings(guidance: float, negative: str) -> GenerationSettings:
        return GenerationSettings(steps=3, size=tiny.SIDE, guidance=guidance, negative_prompt=negative)

    for guidance, equal in ((0.0, True), (7.5, False)):
        a, b = (images_of(make(models, "text2img", settings=settings(guidance, text))) for text in ("", "blurred"))
        assert (a == b).all() == equal


def test_a_map_keeps_its_colours_when_it_is_resized(models):
    generator = make(models, "controlnet")
    [prepared] = generator._image_arguments(visual_prompts()[:1]).values()
    colours = {tuple(c) for c in (prepared[0].permute(1, 2, 0).numpy() * 255).round().astype(int).reshape(-1, 3)}
    assert colours <= {tuple(c) for c in visual_prompts()[0].control.reshape(-1, 3).astype(int)}


def test_a_prompt_over_the_limit_is_cut_and_recorded(models):
    generator = make(models, "text2img")
    long = "letter " * 40  # a letter is a token here
    out = generator.generate([long, long + "more", "short"], [VisualPrompt()] * 3, [1, 1, 1])
    assert [o.truncated for o in out] == [True, True, False]
    np.testing.assert_array_equal(out[0].image, out[1].image)


def test_the_safety_checker_is_on_flags_and_can_be_left_out(models):
    flagged = make(models, "text2img", "always").generate(["a"], [VisualPrompt()], [1])[0]
    assert flagged.flagged
    assert not flagged.image.any()
    passed = make(models, "text2img", "never").generate(["a"], [VisualPrompt()], [1])[0]
    assert not passed.flagged
    off = make(models, "text2img", "always", safety_checker=False)
    assert not off.identity()["safety_checker"]
    unchecked = off.generate(["a"], [VisualPrompt()], [1])[0]
    assert not unchecked.flagged
    assert unchecked.image.any()
    assert make(models, "text2img", "always").identity()["safety_checker"]


def test_identity_names_what_decides_the_images_and_no_path(models, tmp_path):
    found = make(models, "controlnet").identity()
    assert found["pipeline"] == "StableDiffusionControlNetPipeline"
    assert found["base"] == pipeline_identity(models / "sd")
    assert found["base"]["model"] == "sd"
    assert found["controlnet"]["model"] == "net"
    assert found["settings"]["steps"] == 3
    assert str(models) not in json.dumps(found)
    copy = shutil.copytree(models / "sd", tmp_path / "sd")
    assert make(tmp_path, "text2img").identity() == make(models, "text2img").identity()
    tiny.save_stable_diffusion(copy, seed=1)
    changed = make(tmp_path, "text2img").identity()
    assert changed["base"]["digest"] != make(models, "text2img").identity()["base"]["digest"]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' Euler schedulers hand numpy a tensor
def test_the_scheduler_can_be_replaced(models):
    ancestral = make(models, "img2img", settings=GenerationSettings(steps=3, size=32, scheduler="DDPMScheduler"))
    assert ancestral.identity()["scheduler"] == "DDPMScheduler"
    np.testing.assert_array_equal(images_of(ancestral), images_of(ancestral))
    turbo = GenerationSettings(steps=1, size=32, guidance=0.0, scheduler="EulerAncestralDiscreteScheduler")
    np.testing.assert_array_equal(*(images_of(make(models, "text2img", "xl", settings=turbo)) for _ in range(2)))
    with pytest.raises(InvalidOption, match="no scheduler 'Nonsense'"):
        make(models, "img2img", settings=GenerationSettings(steps=3, size=32, scheduler="Nonsense"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"strength": 0.0}, r"strength is 0.0; give more than 0"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"size": 30}, "size is 30 pixels; give a multiple of 8"),
        ({"control_scale": -0.1}, "control_scale is -0.1"),
    ],
)
def test_settings_no_pipeline_could_honour_are_refused(settings, message):
    with pytest.raises(InvalidOption, match=message):
        GenerationSettings(**settings)


def test_img2img_without_a_step_is_refused_before_anything_is_loaded(tmp_path):
    settings = GenerationSettings(steps=1, strength=0.5)
    with pytest.raises(InvalidOption, match=r"1 steps at strength 0\.5 leave 0 to take; give 2 steps"):
        open_generator("img2img", tmp_path / "absent", settings=settings)
    with pytest.raises(MissingWeights, match="absent"):
        open_generator("text2img", tmp_path / "absent", settings=settings)


def test_a_controlnet_of_another_text_width_is_refused_with_both(models, tmp_path):
    tiny.save_controlnet(tmp_path / "wide", width=64)
    with pytest.raises(InvalidOption, match=r"width 64, the model's U-Net of width 32; take a ControlNet") as caught:
        open_generator("controlnet", models / "sd", tmp_path / "wide")
    assert "\n" not in str(caught.value)


def damage(models: Path, folder: Path, how: str) -> tuple[str, Path | str, Path | None]:
    """A kind, a model and a ControlNet that do not work together, made in ``folder``."""
    sd, unet = folder / "sd", folder / "sd" / "unet"
    shutil.copytree(models / "sd", sd)
    if how == "pickles":
        torch.save({}, unet / "diffusion_pytorch_model.bin")
        (unet / "diffusion_pytorch_model.safetensors").unlink()
    elif how == "torn weights":
        weights = unet / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "torn index":
        (sd / "model_index.json").write_text('{"_class')
    elif how == "no pipeline of diffusers":
        index = json.loads((sd / "model_index.json").read_text())
        (sd / "model_index.json").write_text(json.dumps({**index, "_class_name": "NoSuchPipeline"}))
    elif how == "code of its own":
        index = json.loads((sd / "model_index.json").read_text())
        (sd / "model_index.json").write_text(json.dumps({**index, "unet": ["own_unet", "OwnUNet"]}))
        (unet / "own_unet.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass OwnUNet: pass\n")
    return {
        "one part": ("text2img", sd / "unet", None),
        "a file": ("text2img", sd / "model_index.json", None),
        "a pipeline as ControlNet": ("controlnet", sd, sd / "vae"),
        "no ControlNet": ("controlnet", sd, None),
        "a ControlNet too many": ("img2img", sd, models / "net"),
        "nothing there": ("text2img", folder / "absent", None),
        "an unknown kind": ("inpaint", sd, None),
    }.get(how, ("text2img", sd, None))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickles", r"unet holds pickled weights only \(diffusion_pytorch_model.bin\), which are never loaded"),
        ("torn weights", "sd cannot be loaded as a generator"),
        ("torn index", "model_index.json cannot be read"),
        ("no pipeline of diffusers", "'NoSuchPipeline', which diffusers does not have"),
        ("one part", "unet holds no model_index.json"),
        ("a file", "is a file; give the folder"),
        ("a pipeline as ControlNet", "is a AutoencoderKL, not a ControlNet"),
        ("code of its own", "cannot be loaded as a generator"),
        ("no ControlNet", "needs a ControlNet"),
        ("a ControlNet too many", "img2img takes no ControlNet"),
        ("nothing there", "there is no folder"),
        ("an unknown kind", "'inpaint'; use text2img"),
    ],
)
def test_models_that_do_not_work_are_one_line(models, tmp_path, how, message):
    kind, model, net = damage(models, tmp_path, how)
    with pytest.raises((InvalidOption, MissingWeights), match=message) as caught:
        open_generator(kind, model, net, settings=SETTINGS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_precision_are_found_by_their_variant(models, tmp_path):
    import diffusers

    diffusers.ControlNetModel.from_pretrained(models / "net").save_pretrained(tmp_path / "net", variant="fp16")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(models / "sd", use_safetensors=True)
    pipeline.save_pretrained(tmp_path / "sd", variant="fp16")
    for net in (tmp_path / "net", models / "net"):
        found = open_generator("controlnet", tmp_path / "sd", net, SETTINGS, batch_size=2, variant="fp16")
        np.testing.assert_array_equal(images_of(found), images_of(make(models, "controlnet")))
    with pytest.raises(InvalidOption, match="cannot be loaded"):
        open_generator("text2img", tmp_path / "sd", settings=SETTINGS)


def test_a_hub_id_without_network_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights, match=r"nobody/nothing is no folder here .* the hub is off") as caught:
        open_generator("text2img", "nobody/nothing", settings=SETTINGS)
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_read_from_the_local_cache(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--sd"
    shutil.copytree(models / "sd", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    generator = open_generator("text2img", "someone/sd", settings=SETTINGS, batch_size=2)
    assert generator.identity()["base"] == {"model": "someone/sd", "revision": commit, "digest": None}
    np.testing.assert_array_equal(images_of(generator), images_of(make(models, "text2img")))


def test_a_pipeline_that_takes_no_prompt_is_refused(tmp_path):
    import diffusers

    unet = diffusers.UNet2DModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(InvalidOption, match=r"DDPMPipeline takes no .*cannot serve as text2img"):
        open_generator("text2img", tmp_path / "ddpm", settings=SETTINGS)


def test_a_pipeline_of_another_family_is_given_its_prompts_as_they_are(tmp_path):
    tiny.save_latent_diffusion(tmp_path / "ldm")
    generator = open_generator("text2img", tmp_path / "ldm", settings=SETTINGS)
    first = images_of(generator)
    np.testing.assert_array_equal(images_of(generator), first)
    assert (images_of(generator, ["a blue car", "two cats", "a red car"])[0] != first[0]).any()
    settings = GenerationSettings(steps=3, size=tiny.SIDE, negative_prompt="blurred")
    with pytest.raises(InvalidOption, match="takes no negative_prompt"):
        open_generator("text2img", tmp_path / "ldm", settings=settings)
    with pytest.raises(InvalidOption, match=r"takes no image, so it cannot serve as img2img"):
        open_generator("img2img", tmp_path / "ldm", settings=SETTINGS)


def test_bad_calls_are_refused(models):
    generator = make(models, "controlnet")
    with pytest.raises(ValueError, match="1 prompts, 1 visual prompts and 2 seeds"):
        generator.generate(["a"], [VisualPrompt()], [1, 2])
    with pytest.raises(ValueError, match="no control image"):
        generator.generate(["a"], [VisualPrompt()], [1])
    assert generator.generate([], [], []) == []
    generator.close()
    with pytest.raises(ValueError, match="closed"):
        generator.generate(["a"], visual_prompts()[:1], [1])
    with pytest.raises(InvalidOption, match="batch size is 0"):
        make(models, "text2img", batch_size=0)


def test_broken_arithmetic_and_lack_of_memory_are_one_line(models):
    generator = make(models, "text2img")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = generator._pipeline.unet.register_forward_pre_hook(fail)
    with pytest.raises(InvalidOption, match="2 images of 32 pixels do not fit"):
        images_of(generator)
    hook.remove()
    generator._pipeline.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(InvalidOption, match="are no numbers; give dtype float32 or bfloat16"):
        images_of(generator)
