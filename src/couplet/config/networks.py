"""Configuration of the networks: DDPM++, NCSN++, ADM, EDM2 and two multilayer perceptrons.

Fields have the names of the constructor arguments of NVlabs/edm and NVlabs/edm2. Defaults are those
of the published models: CIFAR-10 for DDPM++ and NCSN++, ImageNet 64x64 for ADM and EDM2-S. In a list
per level, the finest level comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from couplet.config.base import Invalid, Item, Listed, Variant

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A probability below one."""
Channels = Annotated[int, Field(ge=1, le=8192)]
Blocks = Annotated[int, Field(ge=1, le=256)]
Multiple = Annotated[int, Field(ge=1, le=64)]
"""A number of channels in units of another."""
Levels = Annotated[tuple[Item, ...], Field(strict=False, min_length=1, max_length=16)]
"""A list in YAML, an item for each resolution."""
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]


class Footprint(NamedTuple):
    """Size of a network for one kind of image, from its settings alone: close, and not below what it has."""

    parameters: int = 0
    activations: int = 0
    """Numbers per image that a training step keeps for the backward pass."""
    flops: int = 0
    """Floating-point operations of one image's forward pass; a multiply-add counts as two."""
    inputs: int = 0
    """The same with `train.recompute`: those that it keeps from block to block."""
    block: int = 0
    """Those that the largest block keeps besides, while it is computed again."""
    derived: int = 0
    """Numbers that it keeps besides, however many images there are: weights as they are computed with."""

    def beside(self, other: Footprint) -> Footprint:
        """Both networks in one step."""
        both = Footprint(*map(sum, zip(self, other, strict=True)))
        return both._replace(block=max(self.block, other.block))


class NetworkConfig(Variant):
    """A network that maps ``[b, c, h, w]`` images and noise labels to ``[b, out, h, w]``."""

    model_channels: Channels = 128
    """Channels, or the unit of ``channel_mult`` (EDM, Appendix F; DDPM++ on CIFAR-10: 128)."""
    num_blocks: Blocks | Levels[Blocks] = 4
    """Residual blocks; of a U-Net, per level of the encoder, the decoder has one more; or a list (GC)."""
    dropout: Probability | Levels[Probability] = 0.0
    """Probability that dropout inside a block zeroes an activation; of a U-Net, or a list (GC)."""

    def misfit(self, resolution: int) -> str | None:
        """Reason why the network cannot be built for images of this height and width, if any."""
        return None

    def footprint(
        self, *, channels: int, out_channels: int, resolution: int, classes: int
    ) -> Footprint | None:
        """Size of the network, for what a job asks of a cluster; None where the kind does not tell."""
        return None


class Block(NamedTuple):
    """A residual block of a U-Net, for :meth:`UNetConfig.footprint`."""

    inputs: int
    """Channels, those of a skip connection included."""
    outputs: int
    side: int
    """Height of the output in pixels."""
    role: Literal["enc", "down", "dec", "up"]
    heads: int
    """Attention heads; 0 for no attention."""
    dropped: bool
    """Whether it has dropout."""


class UNetConfig(NetworkConfig):
    """Settings shared by the U-Nets. Level 0 has the resolution of the images, each next level half the
    previous one; encoder and decoder of a level share its entry in every per-level list."""

    channel_mult: Levels[Multiple] = (2, 2, 2)
    """Channels of each level in units of ``model_channels``; its length is the number of levels."""
    attn_resolutions: Listed[PositiveInt] = (16,)
    """Heights in pixels of the levels with self-attention, besides the first decoder block (GC: none)."""
    dropout_resolution: PositiveInt | None = None
    """Largest height in pixels at which dropout acts; ``null`` means at every one."""

    def misfit(self, resolution: int) -> str | None:
        levels = len(self.channel_mult)
        if resolution % 2 ** (levels - 1) == 0:
            return None
        return (
            f"resolution {resolution} is not a multiple of {2 ** (levels - 1)}, which {levels} levels "
            f"(channel_mult {list(self.channel_mult)}) need"
        )

    def footprint(self, *, channels: int, out_channels: int, resolution: int, classes: int) -> Footprint:
        pixels, width, embedding = resolution**2, self.widths[0], self._embedding()
        ends = 9 * (channels + 1 + out_channels) * max(width, self.model_channels)
        weights, operations = 2 * embedding**2 + (classes + 1) * embedding + ends, ends * pixels
        # The input of the first layer, and what the last ones need.
        kept = inside = (channels + 1 + 3 * width) * pixels
        largest = passing = 0
        for block in self._blocks(resolution):
            inputs, outputs, size = block.inputs, block.outputs, block.side**2
            convolutions = 9 * outputs * (max(inputs, outputs) + outputs)
            convolutions += inputs * outputs if inputs != outputs or block.role in ("up", "down") else 0
            convolutions += 4 * outputs**2 if block.heads else 0
            weights += convolutions + outputs * self._per_channel() + 6 * (inputs + outputs)
            operations += convolutions * size + (2 * outputs * size**2 if block.heads else 0)
            own = round(self._kept(block) * size) + block.dropped * outputs * size
            given = round({"down": 4.0, "up": 0.25}.get(block.role, 1.0) * inputs * size)
            kept, inside, largest = kept + own, inside + given, max(largest, own - given)
            passing = max(passing, 2 * (outputs + block.heads * size) * size)
        # With the two gradients that exist at once where the backward pass begins, or in an attention.
        return Footprint(
            parameters=weights,
            activations=kept + passing,
            flops=2 * operations,
            inputs=inside,
            block=largest + passing,
        )

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.model_channels * factor for factor in self.channel_mult]

    def _blocks(self, resolution: int) -> Iterator[Block]:
        """The residual blocks in the order of evaluation, as `couplet.networks.base.plan` lays them out."""
        multi_head, last = isinstance(self, MultiHeadConfig), len(self.widths) - 1

        def block(
            level: int,
            role: Literal["enc", "down", "dec", "up"],
            inputs: int,
            outputs: int,
            *,
            attends: bool = False,
        ) -> Block:
            side, dropout = resolution >> level, _at(self.dropout, level)
            dropped = dropout > 0 and side <= (self.dropout_resolution or side)
            heads = max(1, outputs // self.channels_per_head) if isinstance(self, MultiHeadConfig) else 1
            return Block(inputs, outputs, side, role, heads=heads if attends else 0, dropped=dropped)

        width = self.widths[0] if multi_head else self.model_channels
        skips = [width]
        for level, outputs in enumerate(self.widths):
            attends = resolution >> level in self.attn_resolutions
            if level:
                yield block(level, "down", width, width)
                skips.append(width)
            for _ in range(_at(self.num_blocks, level)):
                yield block(level, "enc", width, outputs, attends=attends)
                width = outputs
                skips.append(width)
        yield block(last, "dec", width, width, attends=True)
        yield block(last, "dec", width, width)
        for level in range(last, -1, -1):
            attends = resolution >> level in self.attn_resolutions
            if level < last:
                yield block(level, "up", width, width)
            count = _at(self.num_blocks, level)
            for i in range(count + 1):
                inputs, width = width + skips.pop(), self.widths[level]
                yield block(level, "dec", inputs, width, attends=attends and (multi_head or i == count))

    def _embedding(self) -> int:
        """Width of the noise label's embedding."""
        return self.model_channels * 4

    def _per_channel(self) -> int:
        """Weights by which the embedding reaches a channel of a block."""
        return self._embedding()

    def _kept(self, block: Block) -> float:
        """Numbers per pixel of the output that a block keeps for the backward pass, dropout masks apart."""
        before = {"down": 4.0, "up": 0.25}.get(block.role, 1.0)
        # Input, normalised, activated; the convolution's input again where it is resampled.
        kept = 3 * before * block.inputs + (2 * block.inputs if before != 1 else 0) + 3 * block.outputs
        return kept + (7 * block.outputs + block.heads * block.side**2 if block.heads else 0)

    @model_validator(mode="after")
    def _one_entry_per_level(self) -> Self:
        levels = len(self.channel_mult)
        for name in ("num_blocks", "dropout"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise Invalid((name,), value, f"must be one number or {levels}, as many as channel_mult")
        return self


class SongConfig(UNetConfig):
    """Settings shared by DDPM++ and NCSN++ (Song et al. 2021, in the form of EDM); defaults are DDPM++'s."""

    embedding_type: Literal["positional", "fourier"] = "positional"
    """Features of the noise label: sinusoids of fixed or of random frequencies."""
    encoder_type: Literal["standard", "residual"] = "standard"
    """``residual`` adds a downsampled copy of the input to every level of the encoder."""
    channel_mult_noise: Multiple = 1
    """Features of the noise label in units of ``model_channels``."""
    channel_mult_emb: Multiple = 4
    """Width of the embedding that all blocks see, in units of ``model_channels`` (EDM: 4)."""
    resample_filter: Levels[Positive] = (1.0, 1.0)
    """Coefficients of the separable filter used to halve and double the resolution."""
    fourier_scale: Positive = 0.02
    """Standard deviation of the frequencies of ``embedding_type: fourier``, in cycles per unit of
    noise label. iCT, VCT and ECT: 0.02; EDM and GC: 16. Loaded weights bring their own."""

    def footprint(self, *, channels: int, out_channels: int, resolution: int, classes: int) -> Footprint:
        size = super().footprint(
            channels=channels, out_channels=out_channels, resolution=resolution, classes=classes
        )
        if self.encoder_type == "standard":
            return size
        # A convolution from each level to the next, before it is halved.
        inputs = (channels, *self.widths)
        layers = [9 * inputs[i] * inputs[i + 1] for i in range(len(self.widths) - 1)]
        pixels = [4 * resolution**2 >> 2 * level for level in range(1, len(self.widths))]
        flops = sum(2 * layer * size for layer, size in zip(layers, pixels, strict=True))
        kept = sum(2 * width * size for width, size in zip(inputs[1:], pixels, strict=False))
        return size.beside(Footprint(sum(layers), activations=kept, flops=flops, inputs=kept))

    def _embedding(self) -> int:
        return self.model_channels * max(self.channel_mult_emb, self.channel_mult_noise)


class DDPMPlusPlusConfig(SongConfig):
    """DDPM++ as in EDM, VCT and ECT; GC has ``attn_resolutions: []`` and per-level lists."""

    implementation: ClassVar[str] = "couplet.networks.song:SongUNet"
    kind: Literal["ddpmpp"] = "ddpmpp"


class NCSNPlusPlusConfig(SongConfig):
    """NCSN++ as in EDM; iCT's network for CIFAR-10."""

    implementation: ClassVar[str] = "couplet.networks.song:SongUNet"
    kind: Literal["ncsnpp"] = "ncsnpp"
    embedding_type: Literal["positional", "fourier"] = "fourier"
    """Features of the noise label: sinusoids of fixed or of random frequencies."""
    encoder_type: Literal["standard", "residual"] = "residual"
    """``residual`` adds a downsampled copy of the input to every level of the encoder."""
    channel_mult_noise: Multiple = 2
    """Features of the noise label in units of ``model_channels``."""
    resample_filter: Levels[Positive] = (1.0, 3.0, 3.0, 1.0)
    """Coefficients of the separable filter used to halve and double the resolution."""


class MultiHeadConfig(UNetConfig):
    """Settings shared by ADM and EDM2, which have several attention heads where there are many channels."""

    model_channels: Channels = 192
    """Channels that ``channel_mult`` multiplies (ImageNet 64x64: 192)."""
    channel_mult: Levels[Multiple] = (1, 2, 3, 4)
    """Channels of each level in units of ``model_channels``; its length is the number of levels."""
    num_blocks: Blocks | Levels[Blocks] = 3
    """Residual blocks per level of the encoder, the decoder has one more; or a list. iCT-deep: 6."""
    dropout_resolution: PositiveInt | None = 16
    """Largest height in pixels at which dropout acts; ``null``, as in EDM's ADM, means at every one."""
    channels_per_head: Channels = 64
    """Channels of an attention head: a block of C channels has ``C // channels_per_head`` heads."""
    attention_below_head_width: Literal["error", "absent"] = "error"
    """A block with attention that has fewer channels than one head is an error, which a smaller
    ``channels_per_head`` avoids; or has no attention, as in the official code, silently."""


class ADMConfig(MultiHeadConfig):
    """ADM (Dhariwal and Nichol 2021) as in EDM, Appendix F; iCT's network for ImageNet 64x64."""

    implementation: ClassVar[str] = "couplet.networks.adm:ADM"
    kind: Literal["adm"] = "adm"
    attn_resolutions: Listed[PositiveInt] = (32, 16, 8)
    """Heights in pixels of the levels with self-attention, besides the first decoder block."""
    channel_mult_emb: Multiple = 4
    """Width of the embedding that all blocks see, in units of ``model_channels`` (EDM: 4)."""
    adaptive_scale: bool = True
    """The embedding scales and shifts the normalised features (AdaGN: EDM, CM on ImageNet); without, it is
    added to them before they are normalised (iCT on ImageNet, CM on LSUN)."""
    noise_scale: Positive = 1.0
    """Factor on the noise label, ln(t)/4, before its sinusoids (EDM: 1; CM: 1000)."""
    channels_per_group: Channels = 4
    """Fewest channels of a normalisation group, of which there are at most 32 (EDM: 4; CM: 1)."""

    def _embedding(self) -> int:
        return self.model_channels * self.channel_mult_emb

    def _per_channel(self) -> int:
        return self._embedding() * (2 if self.adaptive_scale else 1)

    def _kept(self, block: Block) -> float:
        return super()._kept(block) + (block.outputs if self.adaptive_scale else 0)


class EDM2Config(MultiHeadConfig):
    """The magnitude-preserving U-Net of EDM2 (config G); 192 channels are EDM2-S."""

    implementation: ClassVar[str] = "couplet.networks.edm2:EDM2"
    kind: Literal["edm2"] = "edm2"
    attn_resolutions: Listed[PositiveInt] = (16, 8)
    """Heights in pixels of the levels with self-attention, besides the first decoder block."""

    def footprint(self, *, channels: int, out_channels: int, resolution: int, classes: int) -> Footprint:
        size = super().footprint(
            channels=channels, out_channels=out_channels, resolution=resolution, classes=classes
        )
        # Every convolution keeps its normalised weight.
        return size._replace(derived=round(1.05 * size.parameters))

    def _embedding(self) -> int:
        return max(self.widths)

    def _kept(self, block: Block) -> float:
        inputs, outputs, heads = block.inputs, block.outputs, block.heads
        if block.role in ("dec", "up"):
            kept = 2 * inputs + 4 * outputs
        else:
            kept = (inputs if inputs != outputs else 0) + 7 * outputs
        return kept + (10 * outputs + heads * block.side**2 if heads else 0)


class MLPConfig(NetworkConfig):
    """A residual multilayer perceptron over the flattened image: for points and small images."""

    implementation: ClassVar[str] = "couplet.networks.mlp:MLP"
    kind: Literal["mlp"] = "mlp"
    model_channels: Channels = 128
    """Width of the hidden layers."""
    num_blocks: Blocks = 3
    """Residual blocks."""
    dropout: Probability = 0.0
    """Probability that dropout inside a block zeroes an activation."""
    fourier_scale: Positive = 1.0
    """Standard deviation of the frequencies of the noise label, ln(t)/4, in cycles per unit of it."""

    def footprint(self, *, channels: int, out_channels: int, resolution: int, classes: int) -> Footprint:
        width, ends = self.model_channels, (channels + out_channels) * resolution**2
        weights = (ends + 67) * width + self.num_blocks * (4 * width + 7) * width + 64 * classes + ends
        own, outside = (10 + (self.dropout > 0)) * width, 4 * width + 2 * ends
        kept, inside = self.num_blocks * own + outside, self.num_blocks * width + outside
        return Footprint(weights, activations=kept, flops=2 * weights, inputs=inside, block=own)


class ConcatMLPConfig(NetworkConfig):
    """The perceptron of GC's and VCT's experiments in the plane; defaults are theirs, 198,402 parameters.

    The image's features beside those of the noise label (GC's notebook; shapes of VCT's `model_vae.pth`).
    """

    implementation: ClassVar[str] = "couplet.networks.mlp:ConcatMLP"
    kind: Literal["concat_mlp"] = "concat_mlp"
    model_channels: Channels = 256
    """Width of the hidden layers, and the number of features of the noise label."""
    num_blocks: Blocks = 2
    """Hidden layers after the two kinds of features meet."""
    dropout: Probability = 0.0
    """Probability that dropout after one of these layers zeroes an activation."""

    def footprint(self, *, channels: int, out_channels: int, resolution: int, classes: int) -> Footprint:
        width, ends = self.model_channels, (channels + out_channels) * resolution**2
        weights = (ends + classes + 2) * width + ((self.num_blocks + 1) * (width + 1)) * width + ends
        kept = self.num_blocks * (2 + (self.dropout > 0)) * width + 4 * width + 2 * ends
        return Footprint(weights, activations=kept, flops=2 * weights, inputs=kept)


def _at(setting: Item | tuple[Item, ...], level: int) -> Item:
    """The level's entry of a setting, or its one value for all levels."""
    return setting[level] if isinstance(setting, tuple) else setting
