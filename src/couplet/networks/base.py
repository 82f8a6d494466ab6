"""Interface of networks, their handling of labels, and the layout of the U-Net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from couplet.config.networks import MultiHeadConfig, UNetConfig


class Network(nn.Module, ABC):
    """Maps images and noise labels to images, without preconditioning.

    Subclasses are built from their settings, then these keyword arguments. Initial weights come from torch's
    default generator: seed it to build the same network again.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        resolution: height and width of the images in pixels.
        num_classes: length of a row of class labels; 0 for a network without labels.

    Raises:
        ValueError: a size is not positive, ``num_classes`` is negative, or the resolution or a number of
            channels does not fit the network's layout.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, resolution: int = 1, num_classes: int = 0
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "resolution": resolution}
        for name, value in {**sizes, "num_classes": num_classes}.items():
            if value < (least := int(name in sizes)):
                raise ValueError(f"{name} is {value}, must be at least {least}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.resolution, self.num_classes = resolution, num_classes

    @abstractmethod
    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the raw output F of the network, float ``[b, out_channels, h, w]``.

        Args:
            x: input, float ``[b, in_channels, h, w]``.
            noise_labels: c_noise of the preconditioning, float ``[b]``, or ``[1]`` for all.
            class_labels: float ``[b, num_classes]``, or ``[1, num_classes]`` for all; ``None``
                is a row of zeros. Ignored where ``num_classes`` is 0.

        Raises:
            ValueError: ``class_labels`` has another shape.
        """

    def normalize_weights_(self) -> None:
        """Rescale stored weights to their nominal magnitude, where the network has one.

        The training step calls this once before the student's forward pass. The default does nothing;
        EDM2 overrides it (forced weight normalisation: EDM2, Section 2.3).
        """

    def label_rows(self, class_labels: Tensor | None, like: Tensor) -> Tensor:
        """Return class labels as ``[b, num_classes]`` or ``[1, num_classes]``, with the type of ``like``."""
        if class_labels is None:
            return like.new_zeros(1, self.num_classes)
        if class_labels.ndim != 2 or class_labels.shape[1] != self.num_classes:
            raise ValueError(
                f"class_labels has shape {list(class_labels.shape)}, expected [batch, {self.num_classes}]"
            )
        return class_labels.to(like.dtype)


T = TypeVar("T")


@dataclass(frozen=True)
class BlockPlan:
    """One module of the U-Net: the input convolution or a residual block."""

    name: str
    """Key among the modules, such as ``32x32_block0``: EDM's name."""
    role: str
    """``conv``: input convolution; ``down``, ``up``: a block that changes the resolution; ``in``: one of the
    two that open the decoder; ``block``: one of the others."""
    in_channels: int
    """Channels of the input, including the concatenated skip connection."""
    out_channels: int
    dropout: float
    """Dropout probability."""
    heads: int
    """Number of attention heads; 0 for no attention."""


def plan(config: UNetConfig, *, in_channels: int, resolution: int) -> tuple[list[BlockPlan], list[BlockPlan]]:
    """Lay out encoder and decoder of the U-Net that EDM and EDM2 share, in the order of evaluation.

    Each output of the encoder is a skip connection to the decoder, where each ``block`` takes the latest
    unused one besides the previous block's output. DDPM++ and NCSN++ have one attention head, only in the
    last decoder block of a level, and an input convolution with ``model_channels`` outputs.

    Raises:
        ValueError: ``resolution`` cannot be halved once per further level, or the heads do not fit the
            channels of a block.
    """
    levels = range(len(config.channel_mult))
    if resolution % 2 ** levels[-1]:
        raise ValueError(
            f"resolution {resolution} is not a multiple of {2 ** levels[-1]}, which "
            f"{len(levels)} levels (channel_mult {list(config.channel_mult)}) need"
        )

    multi_head = isinstance(config, MultiHeadConfig)

    def cell(level: int, name: str, inputs: int, outputs: int, *, attention: bool = False) -> BlockPlan:
        height = resolution >> level
        dropout = _at(config.dropout, level)
        if config.dropout_resolution is not None and height > config.dropout_resolution:
            dropout = 0.0
        full = f"{height}x{height}_{name}"
        return BlockPlan(
            name=full,
            role=name.rstrip("0123456789"),
            in_channels=inputs,
            out_channels=outputs,
            dropout=dropout,
            heads=_heads(config, full, outputs) if attention else 0,
        )

    widths = [config.model_channels * factor for factor in config.channel_mult]
    attends = [resolution >> level in config.attn_resolutions for level in levels]

    channels = widths[0] if multi_head else config.model_channels
    encoder = [cell(0, "conv", in_channels, channels)]
    for level in levels:
        if level > 0:
            encoder.append(cell(level, "down", channels, channels))
        for i in range(_at(config.num_blocks, level)):
            encoder.append(cell(level, f"block{i}", channels, widths[level], attention=attends[level]))
            channels = widths[level]

    skips = [block.out_channels for block in encoder]
    decoder = [
        cell(levels[-1], "in0", channels, channels, attention=True),
        cell(levels[-1], "in1", channels, channels),
    ]
    for level in reversed(levels):
        if level < levels[-1]:
            decoder.append(cell(level, "up", channels, channels))
        last = _at(config.num_blocks, level)
        for i in range(last + 1):
            attention = attends[level] and (multi_head or i == last)
            inputs = channels + skips.pop()
            decoder.append(cell(level, f"block{i}", inputs, widths[level], attention=attention))
            channels = widths[level]
    return encoder, decoder


def _at(setting: T | tuple[T, ...], level: int) -> T:
    """Return the level's entry of a setting, or its one value for all levels."""
    return setting[level] if isinstance(setting, tuple) else setting


def _heads(config: UNetConfig, block: str, channels: int) -> int:
    """Return the number of attention heads of a block that should have attention."""
    if not isinstance(config, MultiHeadConfig):
        return 1
    heads = channels // config.channels_per_head
    if heads == 0 and config.attention_below_head_width == "error":
        raise ValueError(
            f"block {block} needs attention, but its {channels} channels are fewer than "
            f"channels_per_head {config.channels_per_head}: lower channels_per_head, or set "
            "attention_below_head_width to 'absent' to leave attention out in narrow blocks"
        )
    if heads > 0 and channels % heads:
        raise ValueError(
            f"block {block}: {channels} channels cannot be split into {heads} "
            f"attention heads (channels_per_head {config.channels_per_head})"
        )
    return heads
