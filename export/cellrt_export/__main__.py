"""`python -m cellrt_export stardist FOLDER -o FILE`."""

import sys

try:
    from cellrt_export.commands import main
except ImportError as error:
    sys.exit(f"cellrt export: expected onnx and h5py to be installed, got: {error}; run: pip install 'cellrt[export]'")

sys.exit(main())
