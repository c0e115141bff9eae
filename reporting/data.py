"""The page on a train folder."""

from core.folders import existing_folder


def data(args) -> int:
    import numpy as np

    import dataset
    from core.photo import PhotoError, load_photo, open_photo
    from reporting import figures
    from reporting.page import Section, gallery, note, table, write_page

    frame = dataset.read_train(existing_folder(args.data_dir, "DIR"), args.corrections)
    people = frame.drop_duplicates("person")
    generator = np.random.default_rng(0)
    sizes, histograms, unreadable = {}, np.zeros((3, 256)), 0
    for path in frame["path"]:
        try:
            with open_photo(path) as photo:
                sizes[photo.size] = sizes.get(photo.size, 0) + 1
        except PhotoError:
            unreadable += 1
    for row in generator.permutation(len(frame))[:500]:
        try:
            pixels = load_photo(frame["path"][row], (128, 96))
        except PhotoError:
            continue
        histograms += [
            np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)
        ]
    share = histograms / histograms.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt(share @ values**2 - mean**2)
    common = sorted(sizes.items(), key=lambda item: -item[1])[:10]

    def sections():
        per_person = frame["person"].value_counts().value_counts()
        rows = [
            ("people", f"{len(people):,}"),
            ("photos", f"{len(frame):,}"),
            ("photos that cannot be opened", f"{unreadable:,}"),
            (
                "photos a person",
                ", ".join(f"{count} ({n:,} people)" for count, n in per_person.items()),
            ),
        ]
        yield Section("In all", table(rows, ("", "")))
        yield Section("People by gender and age", figures=figures.ages(people))
        yield Section("The 18 classes", figures=figures.class_counts(frame["label"].to_numpy()))
        yield Section(
            "Sizes",
            table([(f"{w} x {h}", f"{n:,}") for (w, h), n in common], ("width x height", "photos")),
        )
        yield Section(
            "Colours",
            note(f"Of {min(500, len(frame))} photos, at random."),
            figures.channel_histograms(histograms, mean, std),
        )
        for label, of_class in frame.groupby("label"):
            chosen = of_class.iloc[generator.permutation(len(of_class))[: args.photos]]
            said, names = (
                [f"{age} years" for age in chosen["age"]],
                chosen["person"] + "/" + chosen["photo"],
            )
            yield Section(
                figures.CLASS_NAMES[label],
                gallery(chosen["path"], [[words] for words in said], names.tolist()),
                figures.contact_sheet(chosen["path"].tolist(), said),
                embed=False,
            )

    print(f"wrote {write_page(args.output, f'Data in {args.data_dir}', sections())}")
    return 0
