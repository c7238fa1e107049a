"""Where models come from: timm, torchvision and our own; their weights and how these are fetched."""
