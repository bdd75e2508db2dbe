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
