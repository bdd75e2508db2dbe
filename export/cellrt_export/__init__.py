"""cellrt_export makes model files for cellrt out of trained networks.

    from cellrt_export.stardist import export

    print(export("models/2D_versatile_fluo", "nuclei.onnx"))

On the command line: ``cellrt export stardist FOLDER -o nuclei.onnx``. Needs onnx and h5py (``cellrt[export]``).
"""
