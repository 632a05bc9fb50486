"""SAM: the real classes with small random weights, saved to a disk and loaded by the user's path."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.oracles.catalogue import OracleSpec, open_segmenter

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

TINY = {
    "img_size": 256, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0,
    "window_size": 4, "global_attn_indexes": [1], "out_chans": 32, "mask_mlp_dim": 64, "iou_hidden": 32,
    "mask_in_chans": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from semaug.oracles.sam import _assemble

    torch.manual_seed(0)
    model = _assemble(TINY).eval()
    for parameter in model.image_encoder.parameters():  # position tables start at zero; make every weight count
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("sam") / "tiny.pth"
    torch.save(model.state_dict(), path)
    return model, path


def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((120, 160), (200, 90), (64, 64))]


BOXES = [
    np.array([[10, 10, 80, 90], [40.5, 20, 150, 110]], np.float32),
    np.zeros((0, 4), np.float32),
    np.array([[5, 5, 60, 60]], np.float32),
]


def test_box_prompted_batch_equals_sam_predictor_exactly(tiny_sam: tuple[Any, Path]) -> None:
    from segment_anything import SamPredictor

    model, path = tiny_sam
    found = open_segmenter(OracleSpec.parse(f"sam?weights={path}")).segment(photographs(), BOXES)  # type: ignore[union-attr]
    predictor = SamPredictor(model)
    assert [len(masks) for masks in found] == [2, 0, 1]
    for image, boxes, masks in zip(photographs(), BOXES, found, strict=True):
        predictor.set_image(image)
        for box, mask in zip(boxes, masks, strict=True):
            expected, _, _ = predictor.predict(box=box, multimask_output=False)
            np.testing.assert_array_equal(mask, expected[0])
    assert 0 < found[0][0].mean() < 1


def test_best_of_three_equals_sam_predictor(tiny_sam: tuple[Any, Path]) -> None:
    from segment_anything import SamPredictor

    model, path = tiny_sam
    spec = OracleSpec.parse(f"sam?weights={path}", ["multimask=true"])
    found = open_segmenter(spec).segment(photographs()[:1], BOXES[:1])[0]  # type: ignore[union-attr]
    predictor = SamPredictor(model)
    predictor.set_image(photographs()[0])
    for box, mask in zip(BOXES[0], found, strict=True):
        masks, scores, _ = predictor.predict(box=box, multimask_output=True)
        np.testing.assert_array_equal(mask, masks[int(scores.argmax())])


def test_batch_equals_single_and_chunks_do_not_matter(tiny_sam: tuple[Any, Path]) -> None:
    from semaug.oracles.sam import SamSegmenter

    model, _ = tiny_sam
    together = SamSegmenter(model).segment(photographs(), BOXES)
    chunked = SamSegmenter(model, prompts_per_call=1).segment(photographs(), BOXES)
    for i, image in enumerate(photographs()):
        alone = SamSegmenter(model).segment([image], [BOXES[i]])[0]
        for a, b, c in zip(together[i], chunked[i], alone, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_safetensors_load_like_pth(tiny_sam: tuple[Any, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, path = tiny_sam
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    images = photographs()
    first = open_segmenter(OracleSpec.parse(f"sam?weights={path}")).segment(images, BOXES)  # type: ignore[union-attr]
    spec = OracleSpec.parse(f"sam?weights={tmp_path / 'tiny.safetensors'}")
    second = open_segmenter(spec).segment(images, BOXES)  # type: ignore[union-attr]
    assert all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_automatic_masks_are_bool_and_of_the_image(tiny_sam: tuple[Any, Path]) -> None:
    _, path = tiny_sam
    options = ["points_per_side=4", "pred_iou_thresh=-10", "stability_score_thresh=-1"]
    segmenter = open_segmenter(OracleSpec.parse(f"sam?weights={path}", options))
    masks = segmenter.segment(photographs()[:1], None)[0]  # type: ignore[union-attr]
    assert masks
    assert {(m.dtype, m.shape) for m in masks} == {(np.dtype(bool), (120, 160))}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_published_sizes_are_read_off_their_weights(name: str) -> None:
    from segment_anything import sam_model_registry

    from semaug.oracles.sam import _assemble, sam_shape

    with torch.device("meta"):
        published = sam_model_registry[name]()
        rebuilt = _assemble(sam_shape(published.state_dict()))
    shapes = {n: t.shape for n, t in published.state_dict().items()}
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == shapes
    for ours, theirs in zip(rebuilt.image_encoder.blocks, published.image_encoder.blocks, strict=True):
        assert (ours.window_size, ours.attn.num_heads) == (theirs.window_size, theirs.attn.num_heads)


@pytest.mark.parametrize("oracle", ["sam", "sam-hf"])
def test_missing_weights_say_where_to_get_them_without_a_connection(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(MissingWeights, match=r"absent.*https://.*nothing is downloaded") as caught:
        open_segmenter(OracleSpec.parse(f"{oracle}?weights={tmp_path / 'absent'}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn"])
def test_damaged_weights_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(InvalidOption, match=r"broken\.pth is not a weight file") as caught:
        open_segmenter(OracleSpec.parse(f"sam?weights={path}"))
    assert "\n" not in str(caught.value)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(InvalidOption, match="loaded safely"):
        open_segmenter(OracleSpec.parse(f"sam?weights={tmp_path / 'bomb.pth'}"))
    assert not (tmp_path / "ran").exists()


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InvalidOption, match=r"other\.pth does not hold the weights of a segment-anything model"):
        open_segmenter(OracleSpec.parse(f"sam?weights={tmp_path / 'other.pth'}"))


@pytest.fixture(scope="module")
def tiny_sam_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 64, "patch_size": 16, "mlp_dim": 64, "window_size": 2, "global_attn_indexes": [1],
              "num_pos_feats": 16}  # fmt: skip
    prompt = {
        "hidden_size": 32,
        "image_size": 64,
        "patch_size": 16,
        "image_embedding_size": 4,
        "mask_input_channels": 4,
    }
    decoder = {"hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 64, "iou_head_hidden_dim": 32}
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.0 if name.endswith("bias") else 0.3)
    folder = tmp_path_factory.mktemp("sam-hf")
    model.save_pretrained(folder)
    processor = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(processor).save_pretrained(folder)
    return folder


def test_transformers_sam_gives_one_mask_a_box_and_batch_equals_single(tiny_sam_hf: Path) -> None:
    segmenter = open_segmenter(OracleSpec.parse(f"sam-hf?weights={tiny_sam_hf}"))
    together = segmenter.segment(photographs(), BOXES)  # type: ignore[union-attr]
    assert [len(masks) for masks in together] == [2, 0, 1]
    for image, boxes, masks in zip(photographs(), BOXES, together, strict=True):
        alone = segmenter.segment([image], [boxes])[0]  # type: ignore[union-attr]
        assert all(np.array_equal(a, b) for a, b in zip(masks, alone, strict=True))
        assert all(m.shape == image.shape[:2] and m.dtype == bool for m in masks)
    assert not np.array_equal(together[0][0], together[0][1])


def test_transformers_sam_without_boxes_asks_a_grid_of_points(tiny_sam_hf: Path) -> None:
    spec = OracleSpec.parse(f"sam-hf?weights={tiny_sam_hf}&points_per_side=3")
    masks = open_segmenter(spec).segment(photographs()[:1], None)[0]  # type: ignore[union-attr]
    assert {(m.dtype, m.shape) for m in masks} == {(np.dtype(bool), (120, 160))}
    assert len(masks) == 9
