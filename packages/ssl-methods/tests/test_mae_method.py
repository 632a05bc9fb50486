"""The masked autoencoder as a method: masking, decoder, resuming, learning."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import OptimizerSettings, ProjectorSpec, build_encoder
from semaug.ssl_methods.backbones import vit
from semaug.ssl_methods.encoder import Encoder, EncoderSpec
from semaug.ssl_methods.losses import mae_loss
from semaug.ssl_methods.methods.mae import MAE, MAEDecoder, pixel_patches, take
from semaug.ssl_methods.testing import (
    StripedPairs,
    _surfaces,
    resume_differences,
    scene_view,
    small_run,
    train_scenes,
)


def encoder(seed=0, side=16, blocks=2, head=None) -> Encoder:
    """A vision transformer on patches of 4 pixels, of a few blocks so that tests are quick."""
    with patch.object(vit, "DEPTH", blocks):
        return build_encoder("vit-s4", input_size=side, projector=head, seed=seed)


def mae(seed=0, blocks=2, **options) -> MAE:
    chosen = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, **options}
    return MAE.assemble(encoder(seed, blocks=blocks), seed=seed, **chosen)


def images(n=3, side=16, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def watch(method, given):
    """One forward: its loss, what the encoder's blocks were given, the decoder's inputs and output."""
    seen = {}
    hooks = [
        method.encoder.backbone.blocks[0].register_forward_pre_hook(lambda m, x: seen.update(tokens=x[0])),
        method.decoder.register_forward_hook(lambda m, x, y: seen.update(encoded=x[0], order=x[1], predicted=y)),
    ]
    seen["loss"] = method([given])["loss"]
    for hook in hooks:
        hook.remove()
    return seen


def test_a_quarter_of_the_patches_is_seen_and_the_class_token_always():
    method, given = mae(), images()
    found = watch(method, given)
    backbone = method.encoder.backbone
    assert found["tokens"].shape == (3, 1 + 4, 384)
    cls = backbone.cls_token[0, 0] + backbone.pos_embed[0, 0]
    seen = found["order"][:, :4]
    for n in range(3):
        torch.testing.assert_close(found["tokens"][n, 0], cls)
        torch.testing.assert_close(found["tokens"][n, 1:], backbone.embed(given)[n, seen[n]])


def test_the_loss_is_that_of_the_patches_which_were_hidden():
    method, given = mae(), images()
    found = watch(method, given)
    hidden = torch.ones(3, 16, dtype=torch.bool)
    for n in range(3):
        hidden[n, found["order"][n, :4]] = False
    assert hidden.sum(1).tolist() == [12, 12, 12]
    expected = mae_loss(found["predicted"], pixel_patches(given, 4), hidden)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    plain = mae(norm_pix_loss=False)
    found = watch(plain, given)
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, found["order"][:, :4], False)
    expected = mae_loss(found["predicted"], pixel_patches(given, 4), hidden, norm_pix_loss=False)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_masks_differ_by_image_and_follow_torchs_generator():
    method, orders = mae(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(watch(method, images())["order"])
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert len({tuple(row) for row in orders[0].tolist()}) == 3
    assert torch.equal(orders[0].sort(dim=1).values, torch.arange(16).expand(3, 16))


def test_every_patch_is_hidden_alike_often():
    torch.manual_seed(0)
    method = mae()
    order = torch.cat([watch(method, images(64))["order"] for _ in range(10)])
    seen = torch.bincount(order[:, :4].flatten(), minlength=16) / len(order)
    assert (seen - 0.25).abs().max() < 0.06


def test_hidden_pixels_reach_the_prediction_from_nowhere():
    method = mae().double()
    given = images().double().requires_grad_()
    found = watch(method, given)
    (gradient,) = torch.autograd.grad(found["predicted"].sum(), given)
    touched = pixel_patches(gradient, 4).abs().sum(2) > 0
    expected = torch.zeros(3, 16, dtype=torch.bool).scatter(1, found["order"][:, :4], True)
    assert torch.equal(touched, expected)


def test_the_decoder_puts_patches_back_in_their_places():
    """Without blocks that mix them, a visible patch's prediction depends on its own token and place alone."""
    decoder = MAEDecoder(2, 4, width=16, depth=1, heads=2)
    decoder.blocks = nn.ModuleList()
    tokens = torch.randn(1, 1 + 2, 384)
    order = torch.tensor([[3, 1, 0, 2]])
    found = decoder(tokens, order)[0]
    for place, row in ((3, 1), (1, 2)):
        alone = decoder.pixels(decoder.norm(decoder.embed(tokens[0, row]) + decoder.positions[0, 1 + place]))
        torch.testing.assert_close(found[place], alone)
    for place in (0, 2):
        alone = decoder.pixels(decoder.norm(decoder.hidden[0, 0] + decoder.positions[0, 1 + place]))
        torch.testing.assert_close(found[place], alone)


def test_patches_are_cut_as_the_encoder_cuts_them():
    given = images(2)
    patches = pixel_patches(given, 4)
    assert patches.shape == (2, 16, 48)
    for row in range(4):
        for column in range(4):
            cut = given[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(0, 2, 3, 1).flatten(1)
            assert torch.equal(patches[:, 4 * row + column], cut)
    projection = encoder().backbone.patch_embed.proj
    convolved = projection(given).flatten(2).transpose(1, 2)
    weight = projection.weight.permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(patches @ weight.T + projection.bias, convolved, atol=1e-5, rtol=1e-4)
    places = torch.tensor([[5, 2], [0, 15]])
    assert torch.equal(take(patches, places)[1, 1], patches[1, 15])


def test_every_parameter_is_trained_and_only_the_first_view_used():
    method, given = mae(), images()
    torch.manual_seed(0)
    first = method([given])["loss"]
    first.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters() if p.requires_grad)
    torch.manual_seed(0)
    assert torch.equal(method([given, images(seed=9), images(side=8)])["loss"], first)


def test_the_result_is_the_encoder_and_its_features_are_the_class_token():
    method = mae().eval()
    assert method.result is method.encoder
    given = images()
    assert torch.equal(method.encoder(given), method.encoder.backbone.tokens(given)[:, 0])


def small_mae(seed):
    return mae(seed, decoder_width=16)


SHORT = {"steps": 6, "batch_size": 4, "optimizer": OptimizerSettings("adamw", lr=1e-3)}


def test_resuming_gives_the_weights_of_an_undisturbed_run(tmp_path):
    assert resume_differences(small_mae, tmp_path, stop=4, workers=1, pairs=StripedPairs(40), **SHORT) == []


@pytest.mark.slow
def test_two_ranks_mask_apart_and_resume_to_the_same_weights(tmp_path):
    changes = {**SHORT, "steps": 4, "pairs": StripedPairs(40)}
    assert resume_differences(small_mae, tmp_path, stop=2, ranks=2, checkpoint_every=1, **changes) == []


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 5, 9, 11])
def test_resuming_at_any_step_with_workers_gives_the_same_weights(stop, tmp_path):
    changes = {**SHORT, "steps": 12, "pairs": StripedPairs(40)}
    assert resume_differences(small_mae, tmp_path, stop=stop, workers=2, **changes) == []


def test_fifty_steps_teach_it_to_rebuild_images_it_has_not_seen():
    """Of a patch's standardised values the mean explains nothing (47/48 are left over); an untrained decoder less.

    kNN on its class token does not rise in so few steps, so what is asked is its own task.
    """
    method = mae(decoder_width=128, decoder_heads=4)
    before = rebuilding_error(method)
    train_scenes(method, sides=(16,), lr=1e-3)
    assert before > 47 / 48
    assert rebuilding_error(method) < 0.5


@torch.no_grad()
def rebuilding_error(method):
    """Loss on test scenes, with fixed crops and masks."""
    torch.manual_seed(1)
    draws, (scenes, _) = torch.Generator().manual_seed(5), _surfaces("test", 128)
    return method([scene_view(scenes, draws, 16)])["loss"].item()


def test_the_encoder_is_saved_without_the_decoder(tmp_path):
    card = small_run(tmp_path, build=small_mae, **{**SHORT, "steps": 2})
    assert (card.method, card.projector_dim) == ("mae", None)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert "method.decoder.pixels.weight" in state


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MAE.assemble(build_encoder("small-cnn", input_size=16, projector=None)), "'small-cnn' has none"),
        (lambda: MAE.assemble(encoder(head=ProjectorSpec())), "this encoder has one"),
        (lambda: mae(mask_ratio=0.99), r"mask_ratio 0.99 of 16 patches leaves 0"),
        (lambda: mae(mask_ratio=0.0), r"mask_ratio 0.0 of 16 patches leaves 16"),
        (lambda: mae(decoder_width=30), "width 30 with 2 heads"),
        (lambda: MAE(encoder(), MAEDecoder(2, 4, width=16, depth=1, heads=2)), "2 patches a side, the encoder has 4"),
        (lambda: mae()([images(side=32)]), "32x32 pixels has 64 patches and the decoder builds 16"),
    ],
)
def test_what_cannot_be_masked_is_refused_in_one_line(build, message):
    with pytest.raises(InvalidOption, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_settings_name_all_that_shapes_the_weights():
    expected = {"mask_ratio", "norm_pix_loss", "decoder_width", "decoder_depth", "decoder_heads"}
    assert set(mae().settings()) == expected
    assert isinstance(mae().encoder.spec, EncoderSpec)
