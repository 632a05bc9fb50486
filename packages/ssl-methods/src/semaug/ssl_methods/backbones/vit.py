"""Small vision transformers (Dosovitskiy et al. 2021; Touvron et al. 2021), and positions that follow the input's size.

Parameter names are those of timm's VisionTransformer, which the official MoCo v3, DINO and MAE share, so weights move
to and from them unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semaug.artifacts.errors import InvalidOption

WIDTH = 384
DEPTH = 12


def vit_s16(input_size: int, **options: int | float | str) -> VisionTransformer:
    """ViT-S/16: patches of 16 pixels; ``feature_dim`` 384. ``options`` as ``VisionTransformer``."""
    return VisionTransformer(input_size, 16, **options)  # type: ignore[arg-type]


def vit_s8(input_size: int, **options: int | float | str) -> VisionTransformer:
    """ViT-S/8: patches of 8 pixels; ``feature_dim`` 384. ``options`` as ``VisionTransformer``."""
    return VisionTransformer(input_size, 8, **options)  # type: ignore[arg-type]


def vit_s4(input_size: int, **options: int | float | str) -> VisionTransformer:
    """ViT-S/4, for images of 32 pixels; ``feature_dim`` 384. ``options`` as ``VisionTransformer``."""
    return VisionTransformer(input_size, 4, **options)  # type: ignore[arg-type]


class VisionTransformer(nn.Module):
    """ViT-S: 12 blocks of width 384; its features are the class token's, (B, 384).

    Images may have any sides that are multiples of ``patch`` pixels: the positions, made for ``input_size``, are
    interpolated. ``positions`` is ``learned`` (initialised as DINO's and timm's) or ``sincos`` (fixed, with MoCo v3's
    initialisation). ``heads`` is 6 in DINO, DeiT and timm, 12 in MoCo v3 (Chen et al. 2021, appendix). ``drop_path`` is
    the probability, growing linearly with depth up to it, that a residual branch is skipped while training.

    >>> VisionTransformer(32, 16)(torch.zeros(2, 3, 48, 32)).shape
    torch.Size([2, 384])
    """

    feature_dim = WIDTH

    def __init__(
        self, input_size: int, patch: int, *, heads: int = 6, positions: str = "learned", drop_path: float = 0.0
    ) -> None:
        super().__init__()
        _check(input_size, patch, heads, positions, drop_path)
        self.patch = patch
        self.heads = heads
        self.grid = input_size // patch
        self.patch_embed = PatchEmbedding(patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, WIDTH))
        else:
            self.register_buffer("pos_embed", sincos_positions(self.grid, WIDTH))
        rates = [drop_path * i / (DEPTH - 1) for i in range(DEPTH)]
        self.blocks = nn.ModuleList(Block(heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        _INITIALISERS[positions](self)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 384) of images (B, 3, H, W); raises ``InvalidOption`` for sides that patches do not fill."""
        return self.tokens(images)[:, 0]

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last norm, (B, 1 + h w, 384): the class token, then the patches row by row."""
        return self.encode(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Patches (B, h w, 384) with their positions, before the first block; a masked autoencoder drops some."""
        h, w = (side // self.patch for side in images.shape[-2:])
        if (h * self.patch, w * self.patch) != tuple(images.shape[-2:]):
            raise InvalidOption(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels do not divide into patches of {self.patch}; "
                f"give sides that are multiples of {self.patch}"
            )
        return self.patch_embed(images) + self._positions(h, w)

    def encode(self, patches: Tensor) -> Tensor:
        """The class token put before any patches (B, n, 384), all blocks and the norm: (B, 1 + n, 384)."""
        first = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def spatial_maps(self, images: Tensor) -> Tensor:
        """The patch tokens after the last norm as maps, (B, 384, h, w)."""
        h, w = (side // self.patch for side in images.shape[-2:])
        return self.tokens(images)[:, 1:].transpose(1, 2).reshape(images.shape[0], WIDTH, h, w)

    def _positions(self, h: int, w: int) -> Tensor:
        return self.pos_embed[:, 1:] if (h, w) == (self.grid, self.grid) else resample(self.pos_embed, h, w)[:, 1:]


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) to patches (B, h w, 384), row by row."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Linear maps of the patches."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention among tokens (B, n, 384)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixed tokens of the same shape."""
        batch, count, _ = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, WIDTH // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, WIDTH))


class FeedForward(nn.Module):
    """Each token through one hidden layer four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added to its input."""

    def __init__(self, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = Attention(heads)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = FeedForward()
        self.drop_path = drop_path

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n, 384) of the same shape."""
        tokens = tokens + self._kept(self.attn(self.norm1(tokens)))
        return tokens + self._kept(self.mlp(self.norm2(tokens)))

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)


def sincos_positions(grid: int, width: int) -> Tensor:
    """Fixed positions (1, 1 + grid^2, width), zero for the class token: sine and cosine of the row, then the column.

    Angles are the index times 10000^(-4k/width), k below width/4 (Vaswani et al. 2017, in two dimensions).
    """
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [index.flatten()[:, None] * rates for index in (row, column)]
    patches = torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, width), patches.float()])[None]


def resample(positions: Tensor, h: int, w: int) -> Tensor:
    """Positions (1, 1 + g^2, D) of a square grid, made (1, 1 + h w, D): bicubic with antialiasing, as timm's."""
    side = math.isqrt(positions.shape[1] - 1)
    square = positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(square.float(), (h, w), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:, :1], resized.to(positions.dtype).flatten(2).transpose(1, 2)], dim=1)


def _check(input_size: int, patch: int, heads: int, positions: str, drop_path: float) -> None:
    if input_size < patch or input_size % patch:
        fitting = max(patch, round(input_size / patch) * patch)
        raise InvalidOption(
            f"input size {input_size} is not a multiple of the patch of {patch} pixels; give {fitting}, or take a "
            "backbone with smaller patches (vit-s16, vit-s8, vit-s4)"
        )
    if heads < 1 or WIDTH % heads:
        raise InvalidOption(f"{heads} heads do not divide the width of {WIDTH}; DINO has 6, MoCo v3 has 12")
    if positions not in _INITIALISERS:
        raise InvalidOption(f"positions {positions!r} are not known; choose one of {', '.join(_INITIALISERS)}")
    if not 0 <= drop_path < 1:
        raise InvalidOption(f"drop_path {drop_path} is not a probability below 1; DINO uses 0.1")


def _initialise_as_timm(network: VisionTransformer) -> None:
    nn.init.trunc_normal_(network.pos_embed, std=0.02)
    nn.init.trunc_normal_(network.cls_token, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _initialise_as_moco(network: VisionTransformer) -> None:
    """Glorot uniform for every linear map, the patches' and each of query, key and value included."""
    nn.init.normal_(network.cls_token, std=1e-6)
    maps: list[tuple[nn.Module, int]] = [(network.patch_embed.proj, 3 * network.patch**2 + WIDTH)]
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            fan = 2 * WIDTH if name.endswith("qkv") else sum(module.weight.shape)
            maps.append((module, fan))
    for module, fan in maps:
        bound = math.sqrt(6 / fan)
        nn.init.uniform_(module.weight, -bound, bound)  # type: ignore[arg-type]
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


_INITIALISERS: dict[str, Callable[[VisionTransformer], None]] = {
    "learned": _initialise_as_timm,
    "sincos": _initialise_as_moco,
}
