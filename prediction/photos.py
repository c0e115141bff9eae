"""Photos in whatever form they come, as the pixels that a model takes. Needs no PyTorch."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.photo import PhotoError, load_photo

BLOCK_SECONDS = 30.0  # between two times at which a job that is killed can go on
MOST_BATCHES = 1024  # in a block


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

    def batches(self, batch_size: int, first: int, last: int):
        """Yield (pixels (B, H, W, 3), rows (B,)) in order: a DataLoader without PyTorch."""
        for start in range(first, last, batch_size):
            items = self.__getitems__(range(start, min(start + batch_size, last)))
            yield np.stack([pixels for pixels, _ in items]), np.array([row for _, row in items])


def blocks(first: int, last: int, batch: int, agree=lambda seconds: seconds):
    """Yield (first, last) of blocks of rows that take about BLOCK_SECONDS each.

    Each is whole batches, so that a photo is in the same batch wherever a job began. `agree` gives
    all ranks of a distributed run the seconds that rank 0 measured.
    """
    size, start = 4 * batch, first
    while start < last:
        begun = time.monotonic()
        yield start, min(start + size, last)
        start += size
        seconds = agree(time.monotonic() - begun)
        if seconds < BLOCK_SECONDS:
            size = min(2 * size, MOST_BATCHES * batch)
        elif seconds > 4 * BLOCK_SECONDS:
            size = max(size // 2, batch)
