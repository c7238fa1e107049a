"""Our own data sets. Importing this package registers them."""

from stitching.data.shipped import class_folders, digits, scene_sets, torchvision_sets

__all__ = ["class_folders", "digits", "scene_sets", "torchvision_sets"]
