"""Grad-CAM: where in a photo a model looked.

Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391.
"""

from pathlib import Path

import numpy as np
import torch

from core.photo import load_photo
from prediction.model_file import load_model
from prediction.runs import run_files


def grad_cam(run: Path, paths, classes) -> tuple[tuple | None, str]:
    """Heat maps of the run's (first) model for the class predicted for each photo.

    Returns ((heat (N, H, W) in 0..1, size, crop), how to read it), or (None, why it is left out).
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return None, "Left out: 'pip install grad-cam' adds this figure."
    model = load_model(run_files(run)[0])
    size, crop = tuple(model.description["resize"]), model.description["crop"]
    layers = [info["module"] for info in getattr(model.backbone, "feature_info", [])]
    if not layers:
        architecture = model.description["architecture"]
        return None, f"Left out: timm names no feature layers of {architecture}."

    def as_maps(features):
        """(B, N, C) tokens or (B, H, W, C) -> (B, C, H, W)."""
        if features.ndim == 3:
            tokens = features[:, getattr(model.backbone, "num_prefix_tokens", 0) :]
            height = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
            features = tokens.unflatten(1, (height, tokens.shape[1] // height))
        channels_last = features.shape[-1] == model.backbone.num_features
        return features.permute(0, 3, 1, 2) if channels_last else features

    pixels = np.stack([load_photo(path, size, crop) for path in paths])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    layer = model.backbone.get_submodule(layers[-1])
    with GradCAM(model, [layer], reshape_transform=as_maps) as cam:
        heat = cam(images, [ClassifierOutputTarget(int(label)) for label in classes])
    note = (
        "The first of these mistakes as the model saw them; below, bright where the prediction "
        "comes from (Grad-CAM). That should be the face and the mask, not the background."
    )
    return (heat, size, crop), note
