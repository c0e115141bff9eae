"""Photos in whatever form they come, as the pixels that a model takes. Needs no PyTorch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.photo import PhotoError, load_photo


class PhotoReader:
    """A Dataset of photos, each a path, a PIL image or an (H, W, 3) uint8 array: (pixels, row).

    A photo that cannot be read raises PhotoError or, with `mark_errors`, comes as black pixels
    under the row -1 - row. A batch is decoded by `threads` threads.
    """

    def __init__(self, photos: Sequence, resize, crop, mark_errors=False, threads=1):
        self.photos, self.resize, self.crop = photos, tuple(resize), crop
        self.mark_errors, self.threads = mark_errors, threads

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, row: int):
        try:
            return load_photo(self.photos[row], self.resize, self.crop), row
        except PhotoError:
            if not self.mark_errors:
                raise
            return np.zeros((*self.resize, 3), np.uint8), -1 - row

    def __getitems__(self, rows):
        if self.threads == 1 or len(rows) == 1:
            return [self[row] for row in rows]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, rows))

    def batches(self, batch_size: int):
        """Yield (pixels (B, H, W, 3), rows (B,)) in order: a DataLoader without PyTorch."""
        for start in range(0, len(self), batch_size):
            items = self.__getitems__(range(start, min(start + batch_size, len(self))))
            yield np.stack([pixels for pixels, _ in items]), np.array([row for _, row in items])
