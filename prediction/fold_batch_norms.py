"""Batch norms folded into convolutions for inference."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model import MaskClassifier


@torch.no_grad()
def fold_batch_norms(model: MaskClassifier) -> int:
    """Fold each batch norm that follows a convolution of the backbone into it; returns how many.

    For inference only: the same function, up to rounding, in about half the time for small CNNs.
    Pairs are found by watching one forward pass. Where that does not tell them (a convolution that
    is used twice, or whose output goes elsewhere too), or the outputs would change, the model stays
    as it was.
    """
    made, pairs, hooks = {}, [], []

    def follows(norm, inputs):
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(
                module.register_forward_hook(
                    lambda conv, _, output: made.update({id(output): (conv, output)})
                )
            )
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(follows))
    photos = torch.randint(
        0,
        256,
        (2, 3, *model.description["resize"]),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    before = model.eval()(photos)
    for hook in hooks:
        hook.remove()
    if len({conv for conv, _ in pairs}) < len(pairs) or len({norm for _, norm in pairs}) < len(
        pairs
    ):
        return 0
    undo = []
    places = {
        child: (module, name)
        for module in model.backbone.modules()
        for name, child in module.named_children()
    }
    for conv, norm in pairs:
        after = [
            part
            for part in (getattr(norm, "drop", None), getattr(norm, "act", None))
            if part is not None
        ]  # of timm's BatchNormAct2d
        for old, new in (
            (conv, fuse_conv_bn_eval(conv, norm)),
            (norm, nn.Sequential(*after) if after else nn.Identity()),
        ):
            undo.append((*places[old], old))
            setattr(*places[old], new.eval())
    if torch.allclose(model(photos), before, atol=1e-3):
        return len(pairs)
    for place in undo:
        setattr(*place)
    return 0
