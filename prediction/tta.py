"""Test-time augmentation."""

VIEWS = ("flip", "crops", "scales")


def views(images, names):
    """Yield the batch (B, C, H, W) as it is and once for each augmentation in `names`.

    flip: the mirror image; crops: four shifts of 4 % with the edge repeated; scales: enlarged and
    shrunk by 8 % about the centre.
    """
    import torch.nn.functional as F

    def zoomed(scale, dx=0.0, dy=0.0):
        theta = images.new_tensor([[scale, 0, dx], [0, scale, dy]]).expand(len(images), 2, 3)
        return F.grid_sample(
            images,
            F.affine_grid(theta, images.shape, align_corners=False),
            padding_mode="border",
            align_corners=False,
        )

    yield images
    if "flip" in names:
        yield images.flip(-1)
    if "crops" in names:
        shift = 0.08  # grid_sample counts half widths
        for dx, dy in ((-shift, 0.0), (shift, 0.0), (0.0, -shift), (0.0, shift)):
            yield zoomed(1.0, dx, dy)
    if "scales" in names:
        yield zoomed(0.92)
        yield zoomed(1.08)
