# Types of csrc/bindings/_engine.cpp.
import numpy as np
from numpy.typing import NDArray

class StarNms2D:
    """What `cellrt.kernels.StarNms2D` is made of."""

    def __init__(self, n_rays: int, n_class_channels: int, max_candidates: int) -> None: ...
    def __len__(self) -> int:
        """Candidates added so far."""

    def add(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
    ) -> None:
        """Copy the candidates of one tile; on an error nothing has changed.

        Parameters
        ----------
        prob : float32 (n,)
            Not NaN.
        dist : float32 (n, n_rays)
            Ray lengths in pixels, 0 < dist <= 2^20.
        points : int32 (n, 2)
            (y, x) in pixels of the whole image, magnitude at most 2^30.
        class_prob : float32 (n, n_class_channels) or None
            None only if n_class_channels is 0.

        Raises
        ------
        CapacityError
            There would be more than max_candidates.
        DataError
            NaN, infinite or otherwise impossible values.
        KernelError
            An array has another dtype or shape, or is not contiguous.
        """

    def suppressed(
        self, nms_thresh: float, max_pairs: int, cancel: NDArray[np.int32], n_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32] | None]:
        """`cellrt.kernels.StarNms2D.survivors`, ended by a `KernelError` soon after ``cancel[0]`` is set."""

class MaskSeeds3D:
    """Seeds of masks of a volume whose histogram comes window by window: those of `cellrt.kernels.flow_masks_3d`.

    First `find` is called for windows that cover the volume, then `paint` for any. Any thread may call any method;
    calls on one object wait for each other, without the GIL.

    Parameters
    ----------
    shape : (int, int, int)
        Sides (z, y, x) of the volume, 1..2^20.

    Attributes
    ----------
    FIND_MARGIN, PAINT_MARGIN : int
        Bins around those asked for that `find` and `paint` have to know, as far as the volume goes.
    """

    FIND_MARGIN: int
    PAINT_MARGIN: int

    def __init__(self, shape: tuple[int, int, int]) -> None: ...
    def __len__(self) -> int:
        """Seeds found so far."""

    def find(
        self,
        counts: NDArray[np.int32],
        origin: tuple[int, int, int],
        begin: tuple[int, int, int],
        end: tuple[int, int, int],
        n_threads: int,
    ) -> None:
        """Keep the seeds of a part of a window; no bin may be in two of them.

        Parameters
        ----------
        counts : int32 (z, y, x)
            How many voxels of the whole volume ended in each bin of the window.
        origin : (int, int, int)
            The window's first bin in the volume.
        begin, end : (int, int, int)
            The part, in bins of the volume.
        n_threads : int
            0 uses every usable core.

        Raises
        ------
        CapacityError
            There would be 2^31 seeds.
        DataError
            A count is negative.
        KernelError
            The window is not in the volume or the part not in the window, `n_threads` is negative, or the array has
            another dtype or shape.
        """

    def paint(self, counts: NDArray[np.int32], origin: tuple[int, int, int], n_threads: int) -> None:
        """Replace the counts of a window by the number of the mask that each bin belongs to, in place; 0 for none.

        Masks are numbered in the order of painting: that of `len(self)` covers all others. Within `PAINT_MARGIN` of
        where the volume goes on, the numbers mean nothing. Parameters and errors as of `find`;
        counts that cannot be written are a `KernelError`, too.
        """
