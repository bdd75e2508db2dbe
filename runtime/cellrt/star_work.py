"""An image or a volume on its way through a star network: tiles out, the candidates of each in, instances at the end.

See `pool.Work`. Knows tiles and maps; never how many axes they have, nor what candidates are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Instances
from cellrt.pool import Found
from cellrt.tile import Tile

# Tiles that the network runs on at once. A CPU is slower on several than one by one; other devices idle between calls.
BATCH_ELSEWHERE = 8


class StarWork:
    """One image or volume on its way.

    Parameters
    ----------
    ready : float32 (C, Y, X) or (C, Z, Y, X)
        The network's input, padded.
    tiles : sequence of Tile
        All of one shape.
    batch_size : int
        As of every `Work`.
    take : callable
        What becomes of a tile and its maps; only copies of those should be kept.
    finish : callable
        What makes the instances, once all tiles came back.
    """

    def __init__(
        self,
        ready: NDArray[np.float32],
        tiles: Sequence[Tile],
        batch_size: int,
        take: Callable[[Tile, NDArray[np.float32]], None],
        finish: Callable[[], Instances],
    ) -> None:
        self._ready, self._tiles, self._take, self._finish = ready, tiles, take, finish
        self.batch_size = batch_size
        self.n_tiles = self._left = len(tiles)

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """What each tile reads."""
        return self._tiles[0].shape

    @property
    def is_done(self) -> bool:
        """Whether all tiles came back."""
        return self._left == 0

    def tile(self, index: int) -> NDArray[np.float32]:
        """The network's input for one tile: a view."""
        return cut(self._ready, self._tiles[index])

    def take(self, index: int, maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> None:
        """Take the network's output for one tile."""
        self._take(self._tiles[index], maps)
        self._left -= 1

    def finish(self) -> Found:
        """The instances."""
        return Found(self._finish())


def cut(image: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    """What a tile reads of a padded image (C, Y, X) or volume (C, Z, Y, X): a view."""
    return image[(slice(None), *(slice(*span) for span in tile.reads))]
