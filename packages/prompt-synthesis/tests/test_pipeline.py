"""The stages over a source, with tiny random models of the real classes: what they keep, resume and refuse."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, MissingWeights, OutputError
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ArraySource, open_source
from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable
from semaug.artifacts.verify import verify

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from semaug.prompt_synthesis import store as kept  # noqa: E402
from semaug.prompt_synthesis import tiny_diffusion_models as tiny  # noqa: E402
from semaug.prompt_synthesis.ade20k import to_colours  # noqa: E402
from semaug.prompt_synthesis.captions import CaptionSettings  # noqa: E402
from semaug.prompt_synthesis.generation import GenerationPlan, generate_images, noise_seed  # noqa: E402
from semaug.prompt_synthesis.generators import Generated, GenerationSettings  # noqa: E402
from semaug.prompt_synthesis.parts import CaptionerPart, GeneratorPart, Models, PanopticPart, RewriterPart  # noqa: E402
from semaug.prompt_synthesis.pipeline import Running, caption_images, rewrite_captions, segment_images, stage_costs  # noqa: E402
from semaug.prompt_synthesis.rewriting import RewriteSettings  # noqa: E402
from semaug.prompt_synthesis.similarity import ClipPart, measure_similarity, report_similarity  # noqa: E402
from semaug.prompt_synthesis.tiny_language_models import save_blip2, save_llama  # noqa: E402
from semaug.prompt_synthesis.tiny_panoptic_models import save_mask2former  # noqa: E402
from semaug.prompt_synthesis.visual_prompts import VisualPromptSettings  # noqa: E402

COUNT = 7


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_blip2(folder / "blip2")
    save_llama(folder / "llama")
    tiny.save_stable_diffusion(folder / "sd")
    tiny.save_stable_diffusion(folder / "flagging", safety="always")
    tiny.save_controlnet(folder / "net")
    save_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For the artifacts that tests share as for those they make: rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_source(count: int = COUNT) -> ArraySource:
    images = generator(0, "test").integers(0, 256, (count, 28, 36, 3), dtype=np.uint8)
    return ArraySource(images, labels=[i % 2 for i in range(count)], class_names=["cat", "dog"])


@pytest.fixture(scope="module")
def source() -> ArraySource:
    return make_source()


def captioner(models: Path, **options: Any) -> CaptionerPart:
    return CaptionerPart(str(models / "blip2"), settings=CaptionSettings(batch_size=2, max_new_tokens=6), **options)


def rewriter(models: Path) -> RewriterPart:
    return RewriterPart(str(models / "llama"), RewriteSettings(max_new_tokens=6), batch_size=4)


def painter(models: Path, kind: str = "img2img", model: str = "sd", **options: Any) -> GeneratorPart:
    settings = GenerationSettings(steps=2, size=tiny.SIDE, guidance=1.0, strength=0.7)
    net = str(models / "net") if "controlnet" in kind else None
    return GeneratorPart(kind, str(models / model), net, settings, **{"batch_size": 3, **options})


@pytest.fixture(scope="module")
def captions(models: Path, source: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captions") / "c.zarr"
    caption_images(source, out, captioner(models), shard_size=3)
    return out


@pytest.fixture(scope="module")
def prompts(models: Path, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prompts") / "p.zarr"
    rewrite_captions(captions, out, rewriter(models), n_sem=2, shard_size=3)
    return out


def generate(source: Any, out: Path, models: Path, captions: Path, **options: Any) -> Any:
    part = options.pop("part", None) or painter(models)
    return generate_images(source, out, part, captions, **{"size": tiny.SIDE, "shard_size": 2, **options})


PLAN = GenerationPlan(VisualPromptSettings(augmentation="crop"), n_sem=2, n_vp=1)


@pytest.fixture(scope="module")
def synthetic(
    models: Path, source: ArraySource, captions: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "s.zarr"
    generate(source, out, models, captions, plan=PLAN, prompts=prompts)
    return out


def test_captions_are_the_captioners_own(models, source, captions) -> None:
    table = kept.CaptionTable.open(captions)
    model = captioner(models).open()
    expected = [model.caption([source.read(i)], 0, [source.key(i)])[0].text for i in range(COUNT)]
    assert [table.captions[source.key(i)].text for i in range(COUNT)] == expected
    assert table.manifest.config["captioner"]["digest"]
    assert str(models) not in table.manifest.model_dump_json()


def test_prompts_are_the_rewriters_own_for_every_draw(models, source, captions, prompts) -> None:
    table, texts = kept.CaptionTable.open(captions), kept.PromptTable.open(prompts)
    keys = [source.key(i) for i in range(COUNT) for _ in (1, 2)]
    rows = rewriter(models).open().rewrite([table.captions[k].text for k in keys], keys, [1, 2] * COUNT, 0)
    assert [text for i in range(COUNT) for text in texts.prompts[source.key(i)]] == [row.text for row in rows]
    shown = Artifact.open(prompts).column("examples")
    assert shown.shape == (COUNT, 2, 5)
    assert [tuple(s) for s in shown.reshape(-1, 5).tolist()] == [row.examples for row in rows]


def test_every_variant_is_what_the_generator_makes_of_its_prompt_and_seed(
    models, source, captions, prompts, synthetic
) -> None:
    table, texts = SyntheticTable.open(synthetic), kept.PromptTable.open(prompts)
    assert len(table) == 4 * COUNT
    assert [(r.slot.semantic, r.slot.visual) for r in table.rows[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    said = kept.CaptionTable.open(captions).captions
    key = source.key(5)
    own = [r for r in table.rows if r.origin == key]
    assert [r.prompt for r in own] == [said[key].text, *texts.prompts[key], said[key].text]
    assert [r.seed for r in own] == [noise_seed(0, key, r.slot) for r in own]
    assert len({r.seed for r in table.rows}) == len(table)
    from semaug.prompt_synthesis.visual_prompts import make_visual_prompt

    visual = [make_visual_prompt(PLAN.visual, source.read(5), None, 0, key, r.slot.visual) for r in own]
    made = painter(models, batch_size=1).open().generate([r.prompt for r in own], visual, [r.seed for r in own])
    for number, one in enumerate(made):  # another batch size moves single pixels
        assert np.abs(table.images.read(20 + number).astype(int) - one.image).max() <= 1


def test_synthetic_images_are_a_source_with_the_labels_of_their_origins(source, synthetic) -> None:
    images = open_source(synthetic)
    assert len(images) == 4 * COUNT
    assert images.key(6) == f"{source.key(1)}/2"
    assert [images.label(i) for i in (0, 4)] == [0, 1]
    assert tuple(images.class_names) == ("cat", "dog")
    assert images.read(0).shape == (tiny.SIDE, tiny.SIDE, 3)
    assert verify(synthetic).problems == ()


class Stopped(Exception):
    pass


def interrupted_after(done: int) -> Running:
    def listen(event: Any) -> None:
        if event.done >= done:
            raise Stopped

    return Running(on_progress=listen)


@pytest.mark.parametrize("done", [1, 20])
def test_an_interrupted_generation_goes_on_to_the_undisturbed_artifact(
    models, source, captions, prompts, synthetic, tmp_path, done
) -> None:
    out = tmp_path / "s.zarr"
    with pytest.raises(Stopped):
        generate(source, out, models, captions, plan=PLAN, prompts=prompts, running=interrupted_after(done))
    with pytest.raises(ArtifactError, match="unfinished"):
        SyntheticTable.open(out)
    before = len(Artifact.open(out, partial=True).markers)
    events: list[Any] = []
    generate(source, out, models, captions, plan=PLAN, prompts=prompts, running=Running(on_progress=events.append))
    assert events[0].done == sum(m.items for m in Artifact.open(out).markers[:before])
    assert Artifact.open(out).digest == Artifact.open(synthetic).digest


def test_earlier_stages_resume_too(models, source, captions, prompts, tmp_path) -> None:
    with pytest.raises(Stopped):
        caption_images(source, tmp_path / "c", captioner(models), shard_size=3, running=interrupted_after(4))
    caption_images(source, tmp_path / "c", captioner(models), shard_size=3)
    assert Artifact.open(tmp_path / "c").digest == Artifact.open(captions).digest
    with pytest.raises(Stopped):
        rewrite_captions(
            captions, tmp_path / "p", rewriter(models), n_sem=2, shard_size=3, running=interrupted_after(4)
        )
    rewrite_captions(captions, tmp_path / "p", rewriter(models), n_sem=2, shard_size=3)
    assert Artifact.open(tmp_path / "p").digest == Artifact.open(prompts).digest


def test_another_seed_prompt_or_setting_is_refused_by_name(models, source, captions, prompts, synthetic) -> None:
    for options in ({"seed": 1}, {"part": painter(models, batch_size=2)}, {"plan": replace(PLAN, n_vp=0)}):
        with pytest.raises(ArtifactMismatch, match="--overwrite"):
            generate(source, synthetic, models, captions, **{"plan": PLAN, "prompts": prompts, **options})
    with pytest.raises(ArtifactMismatch, match=r"captioner.prompt"):
        caption_images(source, captions, captioner(models, prompt="objects"), shard_size=3)


def test_one_model_is_open_at_a_time_unless_they_are_kept(models, source, captions, tmp_path) -> None:
    open_counts: list[int] = []
    running = Running(models=Models())
    watched = replace(running, on_progress=lambda _: open_counts.append(len(running.models)))
    caption_images(source, tmp_path / "c", captioner(models), running=watched)
    assert len(running.models) == 0
    rewrite_captions(tmp_path / "c", tmp_path / "p", rewriter(models), running=watched)
    generate(source, tmp_path / "s", models, tmp_path / "c", running=watched)
    assert len(running.models) == 0
    assert max(open_counts) == 1
    keeping = Running(models=Models(keep_loaded=True))
    caption_images(source, tmp_path / "c2", captioner(models), running=keeping)
    rewrite_captions(tmp_path / "c2", tmp_path / "p2", rewriter(models), running=keeping)
    assert len(keeping.models) == 2
    keeping.models.close()
    assert len(keeping.models) == 0


def test_nothing_is_loaded_where_all_is_done(models, source, captions, monkeypatch) -> None:
    monkeypatch.setattr(CaptionerPart, "open", lambda self: pytest.fail("the model was opened"))
    caption_images(source, captions, captioner(models), shard_size=3)


def test_a_model_is_closed_after_a_stage_that_fails(models, source, tmp_path) -> None:
    running = interrupted_after(1)
    with pytest.raises(Stopped):
        caption_images(source, tmp_path / "c", captioner(models), running=running)
    assert len(running.models) == 0


class Unreadable(ArraySource):
    """Image 2 cannot be decoded."""

    def read(self, index: int) -> Any:
        from semaug.artifacts.errors import UnreadableImage

        if index == 2:
            raise UnreadableImage("cannot be decoded")
        return super().read(index)

    fingerprint = "f" * 32


def test_an_image_that_cannot_be_read_is_listed_at_every_stage(models, tmp_path) -> None:
    source = Unreadable(generator(0, "test").integers(0, 256, (4, 28, 36, 3), dtype=np.uint8))
    summary = caption_images(source, tmp_path / "c", captioner(models))
    assert [s.key for s in summary.skipped] == [source.key(2)]
    made = generate(source, tmp_path / "s", models, tmp_path / "c")
    assert [s.key for s in made.skipped] == [source.key(2)]
    assert [row.origin for row in SyntheticTable.open(tmp_path / "s").rows] == [source.key(i) for i in (0, 1, 3)]
    assert len(open_source(tmp_path / "s")) == 3


def test_what_the_safety_checker_turns_down_is_the_real_image_and_says_so(models, source, captions, tmp_path) -> None:
    generate(source, tmp_path / "s", models, captions, part=painter(models, model="flagging"))
    table = SyntheticTable.open(tmp_path / "s")
    assert all(row.flagged for row in table.rows)
    from semaug.prompt_synthesis.visual_prompts import resize_image

    assert np.array_equal(table.images.read(3), resize_image(source.read(3), (tiny.SIDE, tiny.SIDE)))
    unchecked = painter(models, model="flagging", safety_checker=False)
    generate(source, tmp_path / "u", models, captions, part=unchecked)
    assert not any(row.flagged for row in SyntheticTable.open(tmp_path / "u").rows)


def write_maps(source: ArraySource, out: Path) -> list[Any]:
    from semaug.artifacts.schemas import Manifest
    from semaug.artifacts.store import ArtifactWriter

    rng = np.random.default_rng(0)
    maps = [np.kron(rng.integers(0, 150, (7, 9)), np.ones((4, 4))).astype(np.uint8) for _ in range(len(source))]
    manifest = Manifest(
        kind="mask_maps", items=len(source), shard_size=4, inputs={"source": source.fingerprint}, config={}
    )
    with ArtifactWriter.open(out, manifest) as writer:
        for shard in writer.pending():
            own = manifest.shard_range(shard)
            writer.write(shard, kept.map_columns([source.key(i) for i in own], [maps[i] for i in own]))
        writer.finish()
    return maps


def test_mask_maps_are_read_back_as_they_were_written(source, tmp_path) -> None:
    maps = write_maps(source, tmp_path / "m")
    table = kept.MapTable.open(tmp_path / "m")
    assert all(np.array_equal(table.classes(source.key(i)), maps[i]) for i in range(COUNT))


def test_mask_maps_are_the_panoptic_models_own(models, source, tmp_path) -> None:
    save_mask2former(tmp_path / "panoptic")
    part = PanopticPart(str(tmp_path / "panoptic"), batch_size=3, threshold=0.0, mask_threshold=0.0, overlap=0.0)
    segment_images(source, tmp_path / "m", part, shard_size=4)
    table, model = kept.MapTable.open(tmp_path / "m"), part.open()
    for i in range(COUNT):
        expected = model.segment([source.read(i)])[0].classes()
        found = table.classes(source.key(i))
        assert found.shape == (28, 36)
        assert (found == expected).mean() > 0.98  # another batch size moves single pixels
    assert len(np.unique(found)) > 1
    with pytest.raises(ArtifactMismatch, match="overlap"):
        segment_images(source, tmp_path / "m", replace(part, overlap=0.5), shard_size=4)


@pytest.mark.parametrize(
    ("visual", "kind"), [("mask", "controlnet"), ("mixing", "controlnet-img2img"), ("noise", "text2img")]
)
def test_every_visual_prompt_reaches_its_generator(models, source, captions, tmp_path, visual, kind) -> None:
    maps = write_maps(source, tmp_path / "m")
    plan = GenerationPlan(VisualPromptSettings(visual))
    shown: list[Any] = []

    class Watched(GeneratorPart):
        def open(self) -> Any:
            inner = GeneratorPart.open(self)
            plain = inner.generate

            def generate(prompts: Any, visuals: Any, seeds: Any) -> list[Generated]:
                shown.extend(visuals)
                return plain(prompts, visuals, seeds)

            inner.generate = generate  # type: ignore[method-assign]
            return inner

    own = painter(models, kind)
    part = Watched(own.kind, own.model, own.controlnet, own.settings, batch_size=3)
    needed = None if visual == "noise" else tmp_path / "m"
    generate(source, tmp_path / "s", models, captions, part=part, plan=plan, maps=needed)
    assert len(SyntheticTable.open(tmp_path / "s")) == COUNT
    if visual == "mask":
        assert all(np.array_equal(v.control, to_colours(m)) for v, m in zip(shown, maps, strict=True))
    with pytest.raises(InvalidOption, match="needs a generator"):
        generate(source, tmp_path / "x", models, captions, plan=plan, maps=needed)
    if visual != "noise":
        with pytest.raises(InvalidOption, match="needs mask maps"):
            generate(source, tmp_path / "x", models, captions, part=own, plan=plan)


def test_images_of_one_caption_differ_by_seed(models, source, captions, tmp_path) -> None:
    plan = GenerationPlan(VisualPromptSettings("noise"), repeats=3)
    generate(source, tmp_path / "s", models, captions, part=painter(models, "text2img"), plan=plan)
    table = SyntheticTable.open(tmp_path / "s")
    own = [i for i, row in enumerate(table.rows) if row.origin == source.key(0)]
    assert len({table.rows[i].prompt for i in own}) == 1
    assert len({table.images.read(i).tobytes() for i in own}) == 3


@pytest.mark.slow
def test_two_workers_on_devices_of_their_own_write_what_one_does(models, source, captions, tmp_path) -> None:
    part = captioner(models, device="cpu,cpu:0")
    caption_images(source, tmp_path / "c", part, shard_size=3, running=Running(workers=2))
    assert Artifact.open(tmp_path / "c").digest == Artifact.open(captions).digest


KILLED = """
import os, signal, sys
from test_pipeline import *
models, captions, prompts, out, done = Path(sys.argv[1]), *map(Path, sys.argv[2:5]), int(sys.argv[5])
torch.set_num_threads(1)
def listen(event):
    if event.done >= done:
        os.kill(os.getpid(), signal.SIGKILL)
generate(make_source(), out, models, captions, plan=PLAN, prompts=prompts, running=Running(on_progress=listen))
"""


@pytest.mark.slow
def test_a_killed_generation_goes_on_to_the_undisturbed_artifact(
    models, source, captions, prompts, synthetic, tmp_path
) -> None:
    out = tmp_path / "s.zarr"
    for done in (5, 17, 26):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        words = [sys.executable, "-c", KILLED, models, captions, prompts, out, str(done)]
        died = subprocess.run([str(w) for w in words], env=environment, capture_output=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert 0 < len(Artifact.open(out, partial=True).markers) < 4
    generate(source, out, models, captions, plan=PLAN, prompts=prompts)
    assert Artifact.open(out).digest == Artifact.open(synthetic).digest
    assert not list(out.rglob("*.partial"))


def test_a_full_disk_is_one_line_and_the_rerun_goes_on(
    models, source, captions, prompts, synthetic, tmp_path, monkeypatch
) -> None:
    out, writes = tmp_path / "s.zarr", []
    import semaug.artifacts.local_place as files

    plain = files.write_columns

    def limited(folder: Path, columns: Any) -> None:
        writes.append(folder)
        if len(writes) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(folder, columns)

    monkeypatch.setattr(files, "write_columns", limited)
    with pytest.raises(OutputError, match=r"no space left.*it resumes"):
        generate(source, out, models, captions, plan=PLAN, prompts=prompts)
    generate(source, out, models, captions, plan=PLAN, prompts=prompts)
    assert len(writes) == 3 + 2
    assert Artifact.open(out).digest == Artifact.open(synthetic).digest


def test_too_little_space_is_said_before_work_begins(models, source, captions, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"keeping 7 synthetic images needs about"):
        generate(source, tmp_path / "s", models, captions)
    assert not (tmp_path / "s").exists()


def test_kept_images_can_be_smaller_and_compressed(models, source, captions, tmp_path) -> None:
    generate(source, tmp_path / "s", models, captions, plan=GenerationPlan(store_size=16, layout="jpeg", quality=80))
    images = open_source(tmp_path / "s")
    assert images.read(0).shape == (16, 16, 3)
    generate(source, tmp_path / "o", models, captions, plan=GenerationPlan(store_size=14, shape="original"))
    assert open_source(tmp_path / "o").read(0).shape == (14, 18, 3)
    assert "encoded" in Artifact.open(tmp_path / "s").shard(0)
    assert verify(tmp_path / "s").problems == ()


def test_parts_that_do_not_fit_are_refused_in_one_line(models, source, captions, prompts, tmp_path) -> None:
    other = make_source(2)
    with pytest.raises(ArtifactError, match=r"the captions were made of images .*synth caption"):
        generate(other, tmp_path / "s", models, captions)
    with pytest.raises(InvalidOption, match="n_sem is 1 and there are no prompts"):
        generate(source, tmp_path / "s", models, captions, plan=GenerationPlan(n_sem=1))
    with pytest.raises(InvalidOption, match=r"n_sem is 3 and .* holds 2"):
        generate(source, tmp_path / "s", models, captions, plan=GenerationPlan(n_sem=3), prompts=prompts)
    with pytest.raises(InvalidOption, match="has nothing to vary"):
        GenerationPlan(n_vp=1)
    with pytest.raises(InvalidOption, match="n_sem is 0"):
        rewrite_captions(captions, tmp_path / "p", rewriter(models), n_sem=0)
    with pytest.raises(ArtifactError, match="a captions artifact is needed"):
        generate(source, tmp_path / "s", models, prompts)
    with pytest.raises(MissingWeights, match="nowhere"):
        generate(source, tmp_path / "s", models, captions, part=replace(painter(models), model=str(models / "nowhere")))
    assert not (tmp_path / "s").exists()


def test_similarity_is_the_cosine_of_the_librarys_features(models, source, synthetic, tmp_path) -> None:
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel

    measure_similarity(source, synthetic, tmp_path / "sim", ClipPart(str(models / "clip"), batch_size=4), shard_size=5)
    table, found = SyntheticTable.open(synthetic), SimilarityTable.open(tmp_path / "sim")
    found.require_images(table)
    model = CLIPModel.from_pretrained(models / "clip").eval()
    processor = CLIPImageProcessorPil.from_pretrained(models / "clip")

    def features(image: Any) -> Any:
        with torch.inference_mode():
            return model.get_image_features(**processor(Image.fromarray(image), return_tensors="pt")).pooler_output[0]

    for place in (0, 9, 27):
        real, made = features(source.read(place // 4)), features(table.images.read(place))
        expected = float(torch.nn.functional.cosine_similarity(real, made, dim=0))
        assert found.cosines[table.rows[place].key] == pytest.approx(expected, abs=1e-5)
    report = report_similarity(tmp_path / "sim", threshold=1.0)
    values = np.array(list(found.cosines.values()))
    assert (report.count, report.below) == (4 * COUNT, int((values.astype(np.float32) < 1).sum()))
    assert report.mean == pytest.approx(values.mean())
    assert report.deviation == pytest.approx(values.std())
    assert sum(report.counts) == 4 * COUNT
    with pytest.raises(InvalidOption, match="cosines are from -1 to 1"):
        report_similarity(tmp_path / "sim", threshold=2.0)
    with pytest.raises(ArtifactError, match="were made of images"):
        measure_similarity(make_source(2), synthetic, tmp_path / "x", ClipPart(str(models / "clip")))
    with pytest.raises(InvalidOption, match="is a llama model; give a CLIP model"):
        measure_similarity(source, synthetic, tmp_path / "y", ClipPart(str(models / "llama")))


def test_an_image_against_itself_has_similarity_one(models, tmp_path) -> None:
    side = tiny.SIDE
    source = ArraySource(generator(0, "test").integers(0, 256, (3, side, side, 3), dtype=np.uint8))
    caption_images(source, tmp_path / "c", captioner(models))
    generate(source, tmp_path / "s", models, tmp_path / "c", part=painter(models, model="flagging"))
    measure_similarity(source, tmp_path / "s", tmp_path / "sim", ClipPart(str(models / "clip")))
    report = report_similarity(tmp_path / "sim")
    assert report.least == pytest.approx(1, abs=1e-5)
    assert report.greatest == pytest.approx(1, abs=1e-5)


def test_costs_of_every_stage_are_read_off_the_artifacts(captions, prompts, synthetic) -> None:
    rows = stage_costs([captions, prompts, synthetic])
    assert [(row.stage, row.items) for row in rows] == [("caption", COUNT), ("rewrite", COUNT), ("generate", 4 * COUNT)]
    assert all(row.seconds > 0 and row.load_seconds > 0 and row.peak_memory > 0 for row in rows)
    info = Artifact.open(synthetic).manifest.info  # the images alone say what all before them took
    assert set(info["models"]) == {"captioner", "rewriter"}
    assert info["costs"] == {row.stage: asdict(row) for row in rows[:2]}
