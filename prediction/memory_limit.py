"""Batches that do not fit in memory are halved."""

from core.errors import UserError
from core.progress import say


class Halving:
    """`forward(images)` in parts that fit in memory; a size that did not fit is not tried again.

    `join` puts the parts together, `does_not_fit` tells such an error from others. Raises UserError
    where a single photo is too much.
    """

    def __init__(self, forward, join, does_not_fit):
        self.forward, self.join, self.does_not_fit = forward, join, does_not_fit
        self.most = None

    def __call__(self, images):
        while True:
            size = min(len(images), self.most or len(images))
            parts = [images[start : start + size] for start in range(0, len(images), size)]
            try:
                done = [self.forward(part) for part in parts]
                return done[0] if len(done) == 1 else self.join(done)
            except Exception as error:
                if not self.does_not_fit(error):
                    raise
            # outside of `except`: the error holds on to the memory of the forward pass
            if size == 1:
                raise UserError("a single photo does not fit in memory; use a smaller model")
            self.most = size // 2
            say(f"batches do not fit in memory; going on with {self.most} photos in each")
