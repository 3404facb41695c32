"""Backbones from timm: made, loaded, frozen in parts, their output as a feature map."""
