"""Adapters for other packages: what they take from this one, and the other way round.

comfyui       a node of ComfyUI
deepinv       networks as deepinv's denoisers, deepinv's physics as operators of `restore`
napari        a widget: layer in, layer out
scikit_image  functions with scikit-image's arguments
torchvision   a transform for `torchvision.transforms.v2`

Import each by its name. None imports the package that it is for.
"""
