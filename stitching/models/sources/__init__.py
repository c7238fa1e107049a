"""Our sources of models, one file each: timm, torchvision, Satlas, RetCCL, ours, and a user's own.

Reading the registry `SOURCES` imports this package; nothing else is used from here. A source imports its library only
when one of its models is used.
"""

from stitching.models.sources import own_models, timm_models, torchvision_models, user_models  # noqa: F401

from stitching.models.sources import retccl_models, satlas_models  # noqa: F401  # isort: skip - last in lists of names
