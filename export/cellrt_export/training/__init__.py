"""Training: label images -> targets -> a StarDist model folder.

One file per step: data (folders of images and masks, split), augment, targets, loss, evaluate, loop.
`python -m cellrt_export.training --help` is the command line; it made the models that ship with cellrt.
"""
