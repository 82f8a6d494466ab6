"""Conversion of a snapshot pickle of EDM or EDM2 to a safetensors file for `init_from`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couplet.interop.edm_snapshot import read_snapshot, write_model


@dataclass(frozen=True)
class ImportReport:
    """Summary of an import; `str` of it is the text for users.

    Attributes:
        source: the snapshot.
        out: the safetensors file.
        sha256: digest of the snapshot, hexadecimal.
        class_name: class of the snapshot and of the network in it, "EDMPrecond(SongUNet)".
        tensors: number of tensors written.
        elements: number of numbers in them.
        extras: names in the snapshot of the tensors left out.
    """

    source: Path
    out: Path
    sha256: str
    class_name: str
    tensors: int
    elements: int
    extras: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.source} (sha256 {self.sha256}): {self.class_name}",
            f"{self.out}: {self.tensors} tensors, {self.elements} elements",
        ]
        if self.extras:
            lines.append(f"left out: {', '.join(self.extras)}")
        return "\n".join(lines)


def import_edm(source: Path, out: Path) -> ImportReport:
    """Read a snapshot without executing anything in it, and write its network.

    Args:
        source: snapshot pickle of EDM or EDM2.
        out: safetensors file to write; replaced if it exists, unchanged on any error.

    Raises:
        UserError: the snapshot is unusable or `out` cannot be written.
    """
    snapshot = read_snapshot(source)
    written = write_model(snapshot, out)
    return ImportReport(
        source=source,
        out=out,
        sha256=snapshot.sha256,
        class_name=f"{snapshot.class_name}({snapshot.network_class})",
        tensors=len(written.tensors),
        elements=sum(tensor.numel() for tensor in written.tensors.values()),
        extras=tuple(written.extras),
    )
