"""Training: images and masks -> a StarDist or Cellpose network and its ONNX file.

One file per step: data (folders, split by cluster), synthetic (drawn images), sampling, augment, targets, loss, loop;
star and flow say what each kind of network learns and how well it does; run joins them, commands is `cellrt train`.
"""
