"""What was exported, for people and for tests: the table that `cellrt export` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellrt.manifest import Manifest


@dataclass(frozen=True)
class ExportSummary:
    """A file that was exported; `str()` of it is a table, a key and a value each line."""

    output: Path
    manifest: Manifest
    weights_file: str
    n_parameters: int  # as stored, before batch normalisation is folded
    n_nodes: int
    n_bytes: int  # of the file
    seconds: float
    details: Mapping[str, str]  # what this kind of network has to say, in the order of the table; these rows go first
    licence_note: str = ""  # what to consider about a licence that is not stated

    def __str__(self) -> str:
        source, tile, memory = self.manifest.source, self.manifest.tile, self.manifest.memory
        note = f" ({self.licence_note})" if self.licence_note else ""
        rows = {
            "model": f"{self.manifest.name} ({self.weights_file}, sha256 {source.sha256[:12]}...)",
            **self.details,
        }
        general = {
            "channels": f"{self.manifest.input.n_channels}",
            "parameters": f"{self.n_parameters:,} in {self.n_nodes} nodes",
            **({} if memory is None else {"memory": f"about {memory.bytes_per_pixel / 1000:.2f} kB per pixel"}),
            "sizes": f"multiples of {by(tile.multiple)} pixels",
            "licence": f"{source.licence}{note}",
            "file": f"{self.output}, {self.n_bytes / 1e6:.2f} MB, exported in {self.seconds:.2f} s",
        }
        rows |= {key: value for key, value in general.items() if key not in rows}  # the details may know better
        return "\n".join(f"{key:<16} {value}" for key, value in rows.items())


def by(sides: tuple[int, ...]) -> str:
    """Sides as people write them."""
    return " x ".join(map(str, sides))
