"""Faster equivalents of open_clip's towers; unknown towers run unchanged.

  - texts under a causal mask are cut to the batch's longest: tokens after the pooled one do not affect it;
  - the last block is computed for the pooled token only;
  - attention uses scaled_dot_product_attention, without a mask if there is nothing to mask;
  - on a CPU, weights are packed for oneDNN once, and GELU is fused into the preceding matrix product.
In half precision the residual stream, layer norms and embeddings stay in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer, VisionTransformer
from torch import Tensor, nn

from embed.clip.hardware import uses_onednn
from embed.clip.weights import EncoderUnavailable

# Activation rows for which oneDNN packs weights: a batch of pictures; other row counts work as well.
_TYPICAL_ROWS = 800
# Token rows per CPU batch. Larger was no faster, and a kill loses the batch in progress.
_CPU_BATCH_ROWS = 400
# For fewer rows oneDNN uses kernels that round differently (measured on AVX-512), and a vector must not depend on the
# size of its batch.
_MIN_ROWS = 4
# Attention in half precision likewise, for lengths that are not a multiple of this (measured: 8 is not enough).
_LENGTH_MULTIPLE = 16

# open_clip's models and their possible towers.
_Clip: TypeAlias = CLIP | CustomTextCLIP | CoCa
_Visual: TypeAlias = VisionTransformer | TimmModel | ModifiedResNet
_Text: TypeAlias = CLIP | TextTransformer | HFTextEncoder


class Tower(nn.Module):
    """A batch of pixels or tokens -> (N, D) float32; batch_size: pictures or texts per batch on a CPU core."""

    batch_size: int

    def cut(self, tokens: Tensor) -> Tensor:
        """The columns that a batch of texts needs, (N, context_length) -> (N, L), on the CPU."""
        return tokens


def image_tower(clip: _Clip, features: str, dtype: torch.dtype) -> Tower:
    """A tower (N, 3, H, W) float32 -> (N, D) float32; without "projected" features, `clip` loses its projection.

    dtype: of the weights. Raises EncoderUnavailable for "pooled" or "both" if the tower has no separate projection.
    """
    projection = None if features == "projected" else _take_image_projection(clip.visual)
    if _is_plain_vision(clip.visual):
        tower: Tower = _VisionTower(clip.visual)
    else:
        options = _pooled_options(features)
        tower = _StockTower(clip, lambda pixels: clip.encode_image(pixels.to(dtype), **options), dtype)
    return _BothTower(tower, projection) if projection is not None and features == "both" else tower


def text_tower(clip: _Clip, features: str, dtype: torch.dtype) -> Tower:
    """A tower (N, context_length) int64 -> (N, D) float32; otherwise as `image_tower`. Raises EncoderUnavailable."""
    whole = clip if isinstance(clip, CLIP) else clip.text
    projection = None if features == "projected" else _take_text_projection(whole)
    if _is_causal_text(whole):
        tower: Tower = _TextTower(whole)
    else:
        options = _pooled_options(features)
        tower = _StockTower(clip, lambda tokens: clip.encode_text(tokens, **options), dtype)
    return _BothTower(tower, projection) if projection is not None and features == "both" else tower


def stock_encoders(clip: _Clip, features: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """open_clip's encode_image and encode_text, with gradients.

    Unless features is "projected", `clip` loses its projections, which stay frozen. Raises as `image_tower`.
    """
    options = _pooled_options(features)
    image, text = partial(clip.encode_image, **options), partial(clip.encode_text, **options)
    if features == "projected":
        return image, text
    projections = (
        _take_image_projection(clip.visual),
        _take_text_projection(clip if isinstance(clip, CLIP) else clip.text),
    )
    if features == "pooled":
        return image, text
    return partial(_both, image, projections[0]), partial(_both, text, projections[1])


def _both(encode: Callable[[Tensor], Tensor], projection: nn.Module, batch: Tensor) -> Tensor:
    """(N, ...) -> (N, P + J) float32: pooled and projected columns."""
    pooled = encode(batch).float()
    return torch.cat((pooled, projection(pooled)), dim=-1)


class _BothTower(Tower):
    """Pooled and projected columns from one forward pass."""

    def __init__(self, tower: Tower, projection: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.projection = _projection(projection) if isinstance(projection, nn.Linear) else projection
        self.batch_size = tower.batch_size

    def cut(self, tokens: Tensor) -> Tensor:
        return self.tower.cut(tokens)

    def forward(self, batch: Tensor) -> Tensor:
        return _both(self.tower, self.projection, batch)


class _StockTower(Tower):
    """open_clip's own implementation."""

    batch_size = 2

    def __init__(self, clip: nn.Module, encode: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.clip = clip
        self._encode = encode
        self._half = dtype != torch.float32

    def forward(self, batch: Tensor) -> Tensor:
        # in half precision a single row rounds differently (_MIN_ROWS); in float32 by less than 1e-6
        rows = batch.expand(2, *batch.shape[1:]) if self._half and len(batch) == 1 else batch
        return self._encode(rows)[: len(batch)].float()


class _VisionTower(Tower):
    """A plain vision transformer with class-token pooling."""

    ln_pre: nn.LayerNorm | nn.Identity
    ln_post: nn.LayerNorm | nn.Identity
    class_embedding: Tensor  # (width,)
    positions: Tensor  # (1 + P, width)

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.ln_pre, self.ln_post = visual.ln_pre, visual.ln_post
        self.patch = visual.conv1.kernel_size[0]
        # the patch convolution as a matrix product; weights in the pixels' order, (row, column, color)
        self.embed = _Linear(visual.conv1.weight.permute(0, 2, 3, 1).flatten(1), visual.conv1.bias)
        self.register_buffer("class_embedding", visual.class_embedding.detach().float())
        self.register_buffer("positions", visual.positional_embedding.detach().float())
        self.batch_size = max(2, _CPU_BATCH_ROWS // len(self.positions))
        *blocks, self.last = (_Block(block) for block in visual.transformer.resblocks)
        self.blocks = nn.ModuleList(blocks)
        self.projection = _projection(visual.proj)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.embed(self._patches(pixels.to(self.embed.dtype))).float()  # (N, P, width)
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = _norm(self.ln_pre, torch.cat([first, patches], dim=1) + self.positions)
        for block in self.blocks:
            x = block(x, causal=False)
        at = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.projection(_norm(self.ln_post, self.last.pooled(x, at, causal=False)))

    def _patches(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, P, patch * patch * 3), rows of patches first."""
        height, width = (side // self.patch * self.patch for side in pixels.shape[2:])
        rows = pixels[:, :, :height, :width].permute(0, 2, 3, 1).unflatten(2, (-1, self.patch))
        return rows.unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(3).flatten(1, 2)


class _TextTower(Tower):
    """A text transformer with a causal mask and end-token pooling."""

    batch_size = 4  # texts of about fifty tokens
    ln_final: nn.LayerNorm | nn.Identity
    positions: Tensor  # (context_length, width)

    def __init__(self, tower: CLIP | TextTransformer) -> None:
        super().__init__()
        self.token_embedding, self.ln_final = tower.token_embedding, tower.ln_final
        self.register_buffer("positions", tower.positional_embedding.detach().float())
        *blocks, self.last = (_Block(block) for block in tower.transformer.resblocks)
        self.blocks = nn.ModuleList(blocks)
        self.projection = _projection(tower.text_projection)
        self._end = tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id
        self._by_id = _text_pool(tower) == "eos"

    def cut(self, tokens: Tensor) -> Tensor:
        return tokens[:, : int(self._ends(tokens).max()) + 1]

    def forward(self, tokens: Tensor) -> Tensor:
        if not tokens.is_cuda:  # there `cut` would wait for the GPU
            tokens = self.cut(tokens)
        at = self._ends(tokens)
        x = self.token_embedding(tokens).float() + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        return self.projection(_norm(self.ln_final, self.last.pooled(x, at, causal=True)))

    def _ends(self, tokens: Tensor) -> Tensor:
        """(N,): places of the end tokens; as in open_clip, by their id, or as the highest id."""
        return ((tokens == self._end).int() if self._by_id else tokens).argmax(dim=-1)


class _Block(nn.Module):
    """A pre-norm transformer block with the weights of an open_clip block."""

    ln_1: nn.LayerNorm | nn.Identity
    ln_2: nn.LayerNorm | nn.Identity

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        attention, width = block.attn, block.attn.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.heads = attention.num_heads
        self.ln_1, self.ln_2, self.ls_1, self.ls_2 = block.ln_1, block.ln_2, block.ls_1, block.ls_2
        self.query = _Linear(weight[:width], bias[:width])
        self.key_value = _Linear(weight[width:], bias[width:])
        self.out = _Linear(attention.out_proj.weight, attention.out_proj.bias)
        self.widen = _Linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias, block.mlp.gelu)
        self.narrow = _Linear(block.mlp.c_proj.weight, block.mlp.c_proj.bias)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(N, L, width) float32 -> (N, L, width) float32."""
        normed = self._cast(_norm(self.ln_1, x))
        query, key_value = self.query(normed), self.key_value(normed)
        if causal:
            query, key_value = _padded(query), _padded(key_value)  # the causal mask hides the padding
        attended = F.scaled_dot_product_attention(*self._split(query, key_value), is_causal=causal)
        attended = attended.transpose(1, 2)[:, : x.shape[1]].flatten(2)
        return self._feed_forward(x + self.ls_1(self.out(attended)))

    def pooled(self, x: Tensor, at: Tensor, causal: bool) -> Tensor:
        """(N, L, width) float32 and the pooled positions (N,) int64 -> (N, width) float32."""
        if len(x) < _MIN_ROWS:
            repeat = torch.arange(_MIN_ROWS, device=x.device) % len(x)
            return self.pooled(x[repeat], at[repeat], causal)[: len(x)]
        rows = torch.arange(len(x), device=x.device)
        normed = self._cast(_norm(self.ln_1, x))
        key_value = self.key_value(normed)
        mask = None
        if causal:
            key_value = _padded(key_value)
            mask = (torch.arange(key_value.shape[1], device=x.device) <= at[:, None])[:, None, None]  # (N, 1, 1, L)
        query, key, value = self._split(self.query(normed[rows, at].unsqueeze(1)), key_value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._feed_forward(x[rows, at] + self.ls_1(self.out(attended.flatten(1))))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.ls_2(self.narrow(self.widen(self._cast(_norm(self.ln_2, x)))))

    def _split(self, query: Tensor, key_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, Q, width) and (N, L, 2 width) -> query, key and value, (N, heads, Q or L, width / heads)."""
        key, value = key_value.chunk(2, dim=-1)
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.query.dtype)


class _Linear(nn.Module):
    """`nn.Linear` and the activation that follows it; on a CPU through oneDNN, with weights packed once."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.dtype = weight.dtype
        self._packed = weight.device.type == "cpu" and uses_onednn(weight.dtype)
        self._fused = self._packed and isinstance(activation, nn.GELU) and activation.approximate == "none"
        self.activation = nn.Identity() if activation is None or self._fused else activation
        weight = weight.detach().contiguous()
        # torch's compiler packs weights the same way when it freezes a model for inference
        self.register_buffer(
            "weight", torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS) if self._packed else weight
        )
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        if not self._packed:
            return self.activation(F.linear(x, self.weight, self.bias))
        fused = "gelu" if self._fused else "none"
        return self.activation(torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, fused, [], "none"))


def _padded(x: Tensor) -> Tensor:
    """(N, L, width), in half precision with L zero-padded to a multiple of _LENGTH_MULTIPLE."""
    return x if x.dtype == torch.float32 else F.pad(x, (0, 0, 0, -x.shape[1] % _LENGTH_MULTIPLE))


def _norm(layer: nn.LayerNorm | nn.Identity, x: Tensor) -> Tensor:
    """The layer norm of float32 `x` in float32, for weights of any dtype."""
    if isinstance(layer, nn.Identity):
        return x
    return F.layer_norm(x, layer.normalized_shape, layer.weight.float(), layer.bias.float(), layer.eps)


def _projection(weight: Tensor | nn.Linear | None) -> nn.Module:
    """The projection in float32: it is small, and the last rounding step."""
    if weight is None:
        return nn.Identity()
    if isinstance(weight, Tensor):
        return _Linear(weight.T.detach().float(), None)
    return _Linear(weight.weight.detach().float(), None if weight.bias is None else weight.bias.float())


def _is_plain_vision(visual: _Visual) -> bool:
    return (
        type(visual) is VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and visual.conv1.kernel_size == visual.conv1.stride
        and visual.conv1.kernel_size[0] == visual.conv1.kernel_size[1]
        and _is_plain(visual.transformer)
    )


def _is_causal_text(tower: _Text) -> bool:
    return (
        type(tower) in (CLIP, TextTransformer)
        and getattr(tower, "attn_mask", None) is not None
        and _text_pool(tower) in ("argmax", "eos")
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and not getattr(tower, "output_tokens", False)
        and _is_plain(tower.transformer)
    )


def _text_pool(tower: _Text) -> str:
    return tower.text_pool_type if isinstance(tower, CLIP) else tower.pool_type


def _is_plain(transformer: Transformer) -> bool:
    return type(transformer) is Transformer and all(
        type(block) is ResidualAttentionBlock
        and block.attn.in_proj_weight is not None
        and block.attn.in_proj_bias is not None
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
        for block in transformer.resblocks
    )


def _take_image_projection(visual: _Visual) -> nn.Module:
    """Take the projection out of the image tower and return it in float32. Raises EncoderUnavailable."""
    projection = getattr(visual, "proj", None)
    if isinstance(projection, nn.Parameter):
        visual.proj = None
        return _linear(projection)
    if hasattr(visual, "trunk") and set(dict(visual.head.named_children())) in ({"drop", "proj"}, {"mlp"}):
        taken, visual.head = visual.head, nn.Identity()
        return taken.float()
    raise EncoderUnavailable(_no_pooled("image", visual))


def _take_text_projection(tower: _Text) -> nn.Module:
    """Take the projection out of the text tower and return it in float32. Raises EncoderUnavailable."""
    projection = getattr(tower, "text_projection", None)
    if projection is not None:
        tower.text_projection = None
        return _linear(projection)
    taken = getattr(tower, "proj", None)
    if isinstance(taken, (nn.Linear, nn.Sequential)):
        tower.proj = nn.Identity()
        return taken.float()
    raise EncoderUnavailable(_no_pooled("text", tower))


def _linear(weight: Tensor | nn.Linear) -> nn.Linear:
    """open_clip's projection, (width, D) or a layer, as a differentiable float32 layer."""
    if isinstance(weight, nn.Linear):
        return weight.float()
    width, dim = weight.shape
    layer = nn.Linear(width, dim, bias=False, device=weight.device).requires_grad_(False)
    layer.weight.copy_(weight.T)
    return layer


def _no_pooled(side: str, tower: nn.Module) -> str:
    return f"this model's {side} tower ({type(tower).__name__}) has no projection to leave out; use features projected"


def _pooled_options(features: str) -> dict[str, bool]:
    """Options of encode_image and encode_text; CoCa normalises by default, which is wrong for pooled features."""
    return {} if features == "projected" else {"normalize": False}
