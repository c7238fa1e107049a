"""The sources of models that are ours, a file each. Each imports its library only when a model is looked at."""

from stitching.models.sources import own_models, timm_models, torchvision_models, user_models  # noqa: F401
