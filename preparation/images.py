"""Photos made anew in another folder of the same layout: backgrounds removed (rembg), faces cropped (core/faces.py).

The folder that is read is never written to. What is done is in OUT/journal.csv, a row a photo, so that an interrupted job goes on.
"""

import csv
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError
from core.faces import CROP_MARGIN, FaceDetector, best_face, portrait
from core.files import atomic, read_json, write_json
from core.folders import DRAWN_MARK, IMAGE_EXTENSIONS, is_drawn
from core.listing import is_junk
from core.photo import PhotoError, crop_box, open_photo, upright_rgb
from core.processes import cores

OWN = {
    "job.json",
    "journal.csv",
    "journal.part",
}  # of the job, not of the photos: a folder made by one job can be read by the next


WINNERS_CROP = (320, 256)  # height, width in the 512 x 384 frame


# ---------------------------------------------------------------------------- a job over a folder
def convert(source: Path, out: Path, settings: dict, change, progress=iter) -> dict[str, int]:
    """Write `change(photo)` of every photo in `source` to the same place in `out`, other files as they are; count the notes.

    change: RGB Image -> (Image, note, box or None). A photo that cannot be read is copied as it is, with the reason as its note.
    Goes on where an interrupted job with the same `settings` stopped. Raises UserError for an `out` that is something else.
    """
    source, out = source.resolve(), out.expanduser().absolute()
    if out.resolve().is_relative_to(source) or source.is_relative_to(out.resolve()):
        raise UserError(f"{out}: lies in {source} or around it; give a folder apart from it")
    mark = out / "job.json"
    if out.exists() and not mark.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: is there already and is not an unfinished job of this kind; give another name, or move it away"
        )
    settings = {**settings, "source": str(source)}
    if mark.is_file() and read_json(mark) != settings:
        raise UserError(
            f"{out}: holds a job with other settings or of another folder (see {mark}); give another name, or move it away"
        )
    files = sorted(path.relative_to(source).as_posix() for path in files_below(source))
    photos = [name for name in files if Path(name).suffix.lower() in IMAGE_EXTENSIONS]
    if not photos:
        raise UserError(f"{source}: holds no photos")
    write_json(mark, settings)
    for unfinished in out.rglob(".*.????????.part*"):  # what a job that was killed was writing
        unfinished.unlink()
    if is_drawn(source):
        marked = next(
            parent for parent in (source, *source.parents) if (parent / DRAWN_MARK).is_file()
        )
        copy(marked / DRAWN_MARK, out / DRAWN_MARK)
    for name in set(files) - set(photos) - OWN:
        copy(source / name, out / name)
    done = read_journal(out)

    with (
        (out / "journal.part").open("a", newline="", encoding="utf-8") as stream,
        ThreadPoolExecutor(cores()) as pool,
    ):
        writer = csv.writer(stream)
        left = [name for name in photos if name not in done]
        rows = pool.map(lambda name: make(source / name, out / name, name, change), left)
        for row in progress(rows, len(photos), len(photos) - len(left)):
            writer.writerow(row)
            stream.flush()
            done[row[0]] = row
    rows = [done[name] for name in photos]
    with (
        atomic(out / "journal.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream).writerows([("file", "note", "left", "top", "right", "bottom"), *rows])
    (out / "journal.part").unlink()
    notes = {}
    for row in rows:
        notes[row[1]] = notes.get(row[1], 0) + 1
    return notes


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders, without junk; UserError for a folder that cannot be read."""

    def refuse(error: OSError):
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    return [
        Path(parent) / name
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if not is_junk(name)
    ]


def read_journal(out: Path) -> dict[str, list[str]]:
    """The rows of photos that are done, by file; a row half written when the job was killed is not one."""
    rows = {}
    for journal in (out / "journal.csv", out / "journal.part"):
        if journal.is_file():
            for line in journal.read_text(encoding="utf-8").splitlines(keepends=True):
                row = next(csv.reader([line]), [])
                if (
                    line.endswith("\n")
                    and len(row) == 6
                    and row[0] != "file"
                    and (out / row[0]).is_file()
                ):
                    rows[row[0]] = row
    if (out / "journal.part").is_file():  # mend the end of the file that rows will be added to
        with (
            atomic(out / "journal.part") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            csv.writer(stream).writerows(rows.values())
    return rows


def make(source: Path, target: Path, name: str, change) -> list:
    """One photo: read, change, write in the format of its name; its row of the journal."""
    try:
        with open_photo(source) as stored:
            photo = upright_rgb(stored)
    except PhotoError as error:
        copy(source, target)
        return [name, f"not read: {error.reason}", "", "", "", ""]
    except Exception:  # decoders raise anything on broken bytes
        copy(source, target)
        return [name, "not read: broken", "", "", "", ""]
    changed, note, box = change(photo)
    if changed is None:
        copy(source, target)
    else:
        lossy = target.suffix.lower() in (".jpg", ".jpeg", ".webp")
        with atomic(target) as temporary:
            changed.save(
                temporary,
                Image.registered_extensions()[target.suffix.lower()],
                **({"quality": 95} if lossy else {}),
            )
    return [name, note, *(box or ("", "", "", ""))]


def copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


# ---------------------------------------------------------------------------- backgrounds
def background_remover(
    model: str,
    model_file: Path | None,
    colour: tuple[int, int, int],
    least: float = 0.05,
    most: float = 0.95,
):
    """A change for `convert`: the background in `colour`; a photo whose foreground is under `least` or over `most` of it stays as it is.

    model: one of rembg's by name, fetched once, or the file of one. Raises UserError if rembg or the model is not to be had.
    """
    try:
        import rembg
    except ImportError:
        raise UserError(
            "background: rembg is not installed; 'pip install -r requirements-extras.txt'"
        ) from None

    def custom(kind: str):
        return rembg.new_session(
            kind, providers=["CPUExecutionProvider"], model_path=str(model_file.absolute())
        )

    if model_file and not model_file.is_file():
        raise UserError(f"--model_file: {model_file} is not there")
    try:
        if model_file:
            os.environ["U2NET_HOME"] = str(
                model_file.absolute().parent
            )  # rembg opens models in its own folder only
            session = custom("u2net_custom")
            if session.inner_session.get_inputs()[0].shape[-1] == 1024:  # ISNet: other pixels go in
                session = custom("dis_custom")
        else:
            session = rembg.new_session(model)
    except Exception as error:
        if model_file:
            raise UserError(
                f"--model_file {model_file}: cannot be used as a model of rembg ({type(error).__name__})"
            ) from None
        raise UserError(
            f"--model {model}: cannot be fetched ({type(error).__name__}); connect to the network once, or give its file "
            "with --model_file (https://github.com/danielgatis/rembg lists where they are)"
        ) from None

    def change(photo: Image.Image):
        mask = rembg.remove(photo, session=session, only_mask=True)
        share = float(np.asarray(mask).mean() / 255)
        if not least <= share <= most:
            return None, f"kept: {'too little' if share < least else 'too much'} foreground", None
        return (
            Image.composite(photo, Image.new("RGB", photo.size, colour), mask.convert("L")),
            "background removed",
            None,
        )

    return change


# ---------------------------------------------------------------------------- faces
def face_cropper(model_file: Path | None, margin: float):
    """A change for `convert`: the largest, most central face in a 3:4 portrait with `margin` times its height on each side.

    Without a face, the winners' centre crop. Raises UserError if `model_file` is no face detector (None: the one that comes
    with the toolkit).
    """
    return cropper(FaceDetector(model_file), margin)


def cropped(paths, model_file: Path | None, folder: Path) -> list[Path]:
    """The faces of photos, in `folder`; of one that cannot be read its own path, so that it is named where it is read."""
    change = face_cropper(model_file, CROP_MARGIN)

    def one(number: int, path: Path) -> Path:
        target = folder / f"{number}.png"
        return path if make(path, target, "", change)[1].startswith("not read") else target

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, range(len(paths)), map(Path, paths)))


def cropper(detect, margin: float):
    """As face_cropper, with any detector: (H, W, 3) RGB -> (N, >= 4) rows of left, top, width, height."""

    def change(photo: Image.Image):
        faces = detect(np.asarray(photo))
        if not len(faces):
            box = tuple(round(value) for value in crop_box(*photo.size, WINNERS_CROP))
            return photo.crop(box), "no face: centre crop", box
        box = portrait(best_face(faces, *photo.size), margin, *photo.size)
        return photo.crop(box), "face", box

    return change
