"""The page on a train folder."""

from collections import Counter

import numpy as np

import dataset
from core.figures import contact_sheet
from core.folders import existing_folder
from core.labels import CLASS_NAMES
from core.photo import PhotoError, load_photo, open_photo
from reporting import data_figures
from reporting.page import Line, Photo, Section, write_page

SIZE, CROP = (256, 192), (448, 336)  # train.py's defaults
SAMPLED = 500  # photos whose pixel values are counted


def main(args, augmentation=None) -> int:
    """Write the page; with `augmentation`, made for a size, its effect on a batch too."""
    augment = augmentation(SIZE) if augmentation else None
    frame = dataset.read_train(existing_folder(args.data_dir, "DIR"), args.corrections)
    generator = np.random.default_rng(0)

    def sections():
        yield from count_sections(frame)
        yield colour_section(frame, generator)
        if augmentation:
            yield augmentation_section(args.augmentation, augment, frame, generator)
        for label, of_class in frame.groupby("label"):
            chosen = of_class.iloc[generator.permutation(len(of_class))[: args.photos]]
            yield class_section(CLASS_NAMES[label], chosen)

    print(f"wrote {write_page(args.output, f'Data in {args.data_dir}', sections())}")
    return 0


def count_sections(frame):
    sizes, unreadable = photo_sizes(frame["path"])
    people = frame.drop_duplicates("person")
    per_person = frame["person"].value_counts().value_counts()
    groups = ", ".join(f"{photos} ({count:,} people)" for photos, count in per_person.items())
    rows = [("people", f"{len(people):,}"), ("photos", f"{len(frame):,}")]
    rows += [("unreadable photos", f"{unreadable:,}"), ("photos per person", groups)]
    yield Section("Overview", rows=rows)
    yield Section("People by gender and age", figures=[data_figures.ages(people)])
    yield Section("Classes", figures=[data_figures.class_counts(frame["label"].to_numpy())])
    rows = [(f"{width} x {height}", count) for (width, height), count in sizes.most_common(10)]
    yield Section("Sizes", header=("width x height", "photos"), rows=rows)


def photo_sizes(paths) -> tuple[Counter, int]:
    """Photos by (width, height), and the number of those that cannot be opened."""
    sizes, unreadable = Counter(), 0
    for path in paths:
        try:
            with open_photo(path) as photo:
                sizes[photo.size] += 1
        except PhotoError:
            unreadable += 1
    return sizes, unreadable


def colour_section(frame, generator) -> Section:
    counts = np.zeros((3, 256))
    for row in generator.permutation(len(frame))[:SAMPLED]:
        try:
            pixels = load_photo(frame["path"][row], (128, 96))
        except PhotoError:
            continue
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt(share @ values**2 - mean**2)
    note = f"Measured on {min(SAMPLED, len(frame))} random photos."
    return Section("Colours", note, figures=[data_figures.channel_histograms(counts, mean, std)])


def augmentation_section(name: str, augment, frame, generator, count=8, draws=5) -> Section:
    """Photos as the model would see them, each followed by what the augmentation makes of it."""
    rows = []
    for path in frame["path"].iloc[generator.permutation(len(frame))]:
        if len(rows) == count:
            break
        try:
            pixels = load_photo(path, SIZE, CROP)
        except PhotoError:
            continue
        changed = [augment(pixels, generator) if augment else pixels for _ in range(draws)]
        rows.append([pixels, *changed])
    note = f"Each row is a photo at {SIZE[0]} x {SIZE[1]}, and {draws} draws of the augmentation."
    return Section(f"Augmentation: {name}", note, figures=[data_figures.photo_rows(rows)])


def class_section(name: str, chosen) -> Section:
    photos = [
        Photo(row.path, [Line(f"{row.age} years")], f"{row.person}/{row.photo}")
        for row in chosen.itertuples()
    ]
    captions = [photo.lines[0].text for photo in photos]
    sheet = contact_sheet(chosen["path"].tolist(), captions)
    return Section(name, photos=photos, figures=[sheet], embed=False)
