"""The masked autoencoder (He et al. 2022): a vision transformer sees a quarter of the patches; the rest is rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones.vit import WIDTH, VisionTransformer, sincos_positions
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec, seeded
from semaug.ssl_methods.losses.mae import mae_loss
from semaug.ssl_methods.methods.base import Method, Settings, ViewCount


class MAEDecoder(nn.Module):
    """From encoded class token and visible patches to the pixels of all patches.

    ``depth`` transformer blocks of ``width`` with fixed sine-cosine positions; one learned token stands for every
    hidden patch. ``grid`` patches a side of ``patch`` pixels. Weights are drawn from ``seed`` alone.
    """

    positions: Tensor

    def __init__(
        self, grid: int, patch: int, *, width: int = 512, depth: int = 8, heads: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        if width % heads or width % 4 or depth < 1:
            raise InvalidOption(
                f"a decoder of width {width} with {heads} heads and {depth} blocks cannot be built; "
                "give a multiple of the heads and of 4, and 1 block or more"
            )
        self.grid, self.width, self.depth, self.heads = grid, width, depth, heads
        with seeded(seed, "decoder"):
            self.embed = nn.Linear(WIDTH, width)
            self.hidden = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.blocks = nn.ModuleList(_block(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.pixels = nn.Linear(width, 3 * patch**2)
            _initialise(self)
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)

    def forward(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Pixels (B, L, 3 patch^2) of all L patches, row by row.

        ``encoded`` (B, 1 + n, 384) holds the class token and n patches, those of the first n columns of ``order``
        (B, L), a permutation of the patches.
        """
        tokens = self.embed(encoded)
        count = order.shape[1] - (tokens.shape[1] - 1)
        hidden = self.hidden.to(tokens.dtype).expand(len(tokens), count, -1)
        patches = take(torch.cat([tokens[:, 1:], hidden], dim=1), order.argsort(dim=1))
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.pixels(self.norm(tokens)[:, 1:])


class MAE(Method):
    """The squared error of the patches that were hidden: ``mask_ratio`` of each image's, drawn anew at every step.

    The class token is never hidden. ``norm_pix_loss`` rebuilds each patch less its mean over its deviation. It takes
    one view; of a pair it uses the first and leaves the others. Needs a vision transformer without projector; the
    result's features are the class token's, as the backbone gives them.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> encoder = build_encoder("vit-s8", input_size=32, projector=None)
    >>> method = MAE.assemble(encoder, decoder_width=32, decoder_depth=1, decoder_heads=2)
    >>> method([torch.randn(2, 3, 32, 32)])["loss"].shape
    torch.Size([])
    """

    name = "mae"
    views = ViewCount(1, None)
    default_projector: ClassVar[ProjectorSpec | None] = None

    def __init__(
        self, encoder: Encoder, decoder: MAEDecoder, *, mask_ratio: float = 0.75, norm_pix_loss: bool = True
    ) -> None:
        super().__init__(encoder)
        _check_fit(encoder, decoder)
        patches = decoder.grid**2
        self.visible = int(patches * (1 - mask_ratio))
        if not 0 < self.visible < patches:
            raise InvalidOption(
                f"mask_ratio {mask_ratio} of {patches} patches leaves {self.visible} to see; leave at least 1 and hide "
                "at least 1, or take smaller patches"
            )
        self.decoder = decoder
        self.mask_ratio, self.norm_pix_loss = mask_ratio, norm_pix_loss

    @classmethod
    def assemble(
        cls,
        encoder: Encoder,
        *,
        seed: int = 0,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        **hyperparameters: Any,
    ) -> Self:
        """With a decoder of the given size for the encoder's patches."""
        backbone = _transformer_of(encoder)
        decoder = MAEDecoder(
            backbone.grid, backbone.patch, width=decoder_width, depth=decoder_depth, heads=decoder_heads, seed=seed
        )
        return cls(encoder, decoder, **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of the first view, (B, 3, S, S)."""
        backbone, images = _transformer_of(self.encoder), views[0]
        patches = backbone.embed(images)
        if patches.shape[1] != self.decoder.grid**2:
            raise InvalidOption(
                f"a view of {images.shape[2]}x{images.shape[3]} pixels has {patches.shape[1]} patches and the decoder "
                f"builds {self.decoder.grid**2}; give views of the encoder's input size, {self.encoder.spec.input_size}"
            )
        order = torch.rand(patches.shape[:2], device=images.device).argsort(dim=1)
        seen = order[:, : self.visible]
        predicted = self.decoder(backbone.encode(take(patches, seen)), order)
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, seen, False)
        target = pixel_patches(images, backbone.patch)
        return {"loss": mae_loss(predicted, target, hidden, norm_pix_loss=self.norm_pix_loss)}

    def settings(self) -> Settings:
        """Masking, target and decoder."""
        return {
            "mask_ratio": self.mask_ratio,
            "norm_pix_loss": self.norm_pix_loss,
            "decoder_width": self.decoder.width,
            "decoder_depth": self.decoder.depth,
            "decoder_heads": self.decoder.heads,
        }


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, n, D) at ``places`` (B, n) of ``tokens`` (B, L, D)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


def pixel_patches(images: Tensor, patch: int) -> Tensor:
    """Images (B, 3, H, W) as patches (B, L, 3 patch^2), row by row; in each pixel by pixel, colours last."""
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def _transformer_of(encoder: Encoder) -> VisionTransformer:
    if not isinstance(encoder.backbone, VisionTransformer):
        raise InvalidOption(
            f"mae hides patches and backbone {encoder.spec.backbone!r} has none; take vit-s16, vit-s8 or vit-s4"
        )
    return encoder.backbone


def _check_fit(encoder: Encoder, decoder: MAEDecoder) -> None:
    grid = _transformer_of(encoder).grid
    if encoder.projector is not None:
        raise InvalidOption("mae trains no projector and this encoder has one; build it with projector=None")
    if grid != decoder.grid:
        raise InvalidOption(
            f"the decoder builds {decoder.grid} patches a side, the encoder has {grid}; make them equal"
        )


def _block(width: int, heads: int) -> nn.Module:
    """A transformer block as the encoder's: normalised before, GELU, four times as wide inside."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )


def _initialise(decoder: nn.Module) -> None:
    """Glorot uniform for every linear map, as the paper has it."""
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
