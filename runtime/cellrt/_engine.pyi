# Types of csrc/bindings/_engine.cpp.
import numpy as np
from numpy.typing import NDArray

class StarNms2D:
    """Suppression of star-convex candidates that arrive tile by tile.

    The survivors are those of `cellrt.kernels.star_nms_2d` on all candidates in row-major order of their points, in
    whichever order the tiles came, as long as no two tiles have the same point. Candidates are copied and kept until
    the object goes. Any thread may call any method; calls on one object wait for each other, without the GIL.

    Parameters
    ----------
    n_rays : int
        3..1024.
    n_class_channels : int
        Values that each candidate carries along; 0: none.
    max_candidates : int
        Most candidates that may be added, below 2^32.

    Raises
    ------
    KernelError
        A number is out of range.
    """

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

    def survivors(
        self, nms_thresh: float, max_pairs: int, n_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32] | None]:
        """Survivors of all candidates so far, best first; more candidates may be added afterwards.

        Parameters
        ----------
        nms_thresh : float
            In [0, 1]: overlap (intersection over the smaller area) above which the weaker candidate is dropped.
        max_pairs : int
            Limit on the work, as for `cellrt.kernels.star_nms_2d`.
        n_threads : int
            0 uses every usable core; the result is the same for any number.

        Returns
        -------
        prob : float32 (n,)
            Descending; ties in ascending order of (y, x), then of arrival.
        dist : float32 (n, n_rays)
        points : int32 (n, 2)
        class_prob : float32 (n, n_class_channels) or None

        Raises
        ------
        CapacityError
            It would take more pairs.
        KernelError
            A number is out of range.
        KeyboardInterrupt
            Ctrl-C on the main thread, within about 0.1 s; so does whatever another signal's handler raises.
        """
