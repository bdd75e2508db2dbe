"""cellrt_export makes model files for cellrt out of trained networks.

    from cellrt_export import cellpose, stardist

    print(stardist.export("models/2D_versatile_fluo", "nuclei.onnx"))
    print(cellpose.export("models/cyto3", "cyto3.onnx", size_model_file="models/size_cyto3.npy"))

On the command line: ``cellrt export stardist FOLDER -o nuclei.onnx``, ``cellrt export cellpose WEIGHTS -o cyto3.onnx``,
``cellrt export cellpose-sam WEIGHTS -o cpsam.onnx``. StarDist needs onnx and h5py (``cellrt[export]``), Cellpose needs
torch to read its weights (``cellrt[export-torch]``).
"""
