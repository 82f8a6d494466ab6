"""Configuration of the networks: DDPM++, NCSN++, ADM, EDM2 and two multilayer perceptrons.

Fields have the names of the constructor arguments of NVlabs/edm and NVlabs/edm2. Defaults are those
of the published models: CIFAR-10 for DDPM++ and NCSN++, ImageNet 64x64 for ADM and EDM2-S. In a list
per level, the finest level comes first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

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


class EDM2Config(MultiHeadConfig):
    """The magnitude-preserving U-Net of EDM2 (config G); 192 channels are EDM2-S."""

    implementation: ClassVar[str] = "couplet.networks.edm2:EDM2"
    kind: Literal["edm2"] = "edm2"
    attn_resolutions: Listed[PositiveInt] = (16, 8)
    """Heights in pixels of the levels with self-attention, besides the first decoder block."""


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
