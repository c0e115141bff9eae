"""Photos made anew in another folder of the same layout: backgrounds removed, faces cropped.

The folder that is read is never written to. What is done is in OUT/journal.csv, a row a photo, so
that an interrupted job can continue.
"""

import csv
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError
from core.faces import WINNERS_CROP, FaceDetector, best_face, portrait
from core.files import atomic, read_json, write_json
from core.folders import DRAWN_MARK, is_drawn
from core.listing import NOT_A_FORMAT, is_photo, readable, walk
from core.photo import PhotoError, crop_box, read_photo
from core.processes import cores
from core.progress import say

# Of the job, not of the photos: a folder made by one job can be read by the next.
OWN = {"job.json", "journal.csv", "journal.part"}


# ---------------------------------------------------------------------------- a job over a folder
def convert(source: Path, out: Path, settings: dict, change, progress) -> Counter:
    """Write `change(photo)` of every photo in `source` to the same place in `out`; count the notes.

    change: RGB Image -> (Image, note, box or None). Other files are copied, as is a photo that
    cannot be read, with the reason as its note. Goes on where an interrupted job with the same
    `settings` stopped. Raises UserError for an `out` that is something else.
    """
    source, out = source.resolve(), out.expanduser().absolute()
    settings = {**settings, "source": str(source)}
    _check_out(source, out, settings)
    files = sorted(path.relative_to(source).as_posix() for path in files_below(source))
    photos = [name for name in files if is_photo(name)]
    if not photos:
        raise UserError(f"{source}: holds no photos")
    write_json(out / "job.json", settings)
    for unfinished in out.rglob(".*.????????.part*"):  # what a job that was killed was writing
        unfinished.unlink()
    _copy_the_rest(source, out, [name for name in files if not is_photo(name)])

    done = read_journal(out)
    left = [name for name in photos if name not in done]
    with _text(out / "journal.part", "a") as stream, ThreadPoolExecutor(cores()) as pool:
        writer = csv.writer(stream)
        rows = pool.map(lambda name: make(source / name, out / name, name, change), left)
        for row in progress(rows, len(photos), len(photos) - len(left)):
            writer.writerow(row)
            stream.flush()
            done[row[0]] = row
    rows = [done[name] for name in photos]
    with atomic(out / "journal.csv") as temporary, _text(temporary, "w") as stream:
        csv.writer(stream).writerows([("file", "note", "left", "top", "right", "bottom"), *rows])
    (out / "journal.part").unlink()
    return Counter(row[1] for row in rows)


def _check_out(source: Path, out: Path, settings: dict) -> None:
    mark = out / "job.json"
    if out.resolve().is_relative_to(source) or source.is_relative_to(out.resolve()):
        raise UserError(f"{out}: lies in {source} or around it; give a folder apart from it")
    if out.exists() and not mark.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: exists already and is not an unfinished job of this kind; give another "
            "name, or move it away"
        )
    if mark.is_file() and read_json(mark) != settings:
        raise UserError(
            f"{out}: holds a job with other settings or of another folder (see {mark}); give "
            "another name, or move it away"
        )


def _copy_the_rest(source: Path, out: Path, names: list[str]) -> None:
    if is_drawn(source):
        parents = (source, *source.parents)
        marked = next(parent for parent in parents if (parent / DRAWN_MARK).is_file())
        copy(marked / DRAWN_MARK, out / DRAWN_MARK)
    for name in names:
        if name not in OWN:
            copy(source / name, out / name)
    unknown = [
        name for name in names if Path(name).suffix.lower() not in (".csv", ".json", ".part")
    ]
    if unknown:
        first = readable(unknown[0])
        say(f"warning: {source}: copied {len(unknown)} {NOT_A_FORMAT} as they are (first {first})")


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders, without junk; UserError if one cannot be read."""
    return [
        current / entry.name
        for current, entries in walk(folder)
        for entry in entries
        if not entry.is_dir()
    ]


def _text(path: Path, mode: str):
    """A text file that takes any file name, those that are not UTF-8 too."""
    return path.open(mode, newline="", encoding="utf-8", errors="surrogateescape")


def read_journal(out: Path) -> dict[str, list[str]]:
    """The rows of photos that are done, by file; one half written by a killed job is not done."""
    rows = {}
    for journal in (out / "journal.csv", out / "journal.part"):
        if journal.is_file():
            with _text(journal, "r") as stream:
                lines = stream.readlines()
            for line in lines:
                row = next(csv.reader([line]), [])
                complete = line.endswith("\n") and len(row) == 6 and row[0] != "file"
                if complete and (out / row[0]).is_file():
                    rows[row[0]] = row
    if (out / "journal.part").is_file():  # without its broken end, since rows will be added
        with atomic(out / "journal.part") as temporary, _text(temporary, "w") as stream:
            csv.writer(stream).writerows(rows.values())
    return rows


def make(source: Path, target: Path, name: str, change) -> list:
    """One photo: read, change, write in the format of its name; its row of the journal."""
    try:
        photo = Image.fromarray(read_photo(source))
    except PhotoError as error:
        copy(source, target)
        return [name, f"not read: {error.reason}", "", "", "", ""]
    changed, note, box = change(photo)
    if changed is None:
        copy(source, target)
    else:
        format = Image.registered_extensions().get(target.suffix.lower())
        # names stay, since lists hold them; readers go by what is inside
        format = format if format in Image.SAVE else "JPEG"
        lossy = {"quality": 95} if format in ("JPEG", "WEBP", "AVIF") else {}
        with atomic(target) as temporary:
            changed.save(temporary, format, **lossy)
    return [name, note, *(box or ("", "", "", ""))]


def copy(source: Path, target: Path) -> None:
    """Copy a file, atomically."""
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


# ---------------------------------------------------------------------------- backgrounds
def background_remover(
    model: str, model_file: Path | None, colour: tuple[int, int, int], least=0.05, most=0.95
):
    """A change for `convert`: the background in `colour`.

    A photo whose foreground is under `least` or over `most` of it stays as it is. model: one of
    rembg's by name, fetched once, or the file of one. Raises UserError if rembg or the model is not
    available.
    """
    try:
        import rembg
    except ImportError:
        raise UserError(
            "background: rembg is not installed; 'pip install -r requirements-extras.txt'"
        ) from None
    session = _session_of_file(rembg, model_file) if model_file else _session(rembg, model)

    def change(photo: Image.Image):
        mask = rembg.remove(photo, session=session, only_mask=True)
        share = float(np.asarray(mask).mean() / 255)
        if not least <= share <= most:
            return None, f"kept: {'too little' if share < least else 'too much'} foreground", None
        background = Image.new("RGB", photo.size, colour)
        return Image.composite(photo, background, mask.convert("L")), "background removed", None

    return change


def _session(rembg, model: str):
    try:
        return rembg.new_session(model)
    except Exception as error:
        raise UserError(
            f"--model {model}: cannot be fetched ({type(error).__name__}); connect to the network "
            "once, or give its file with --model_file (https://github.com/danielgatis/rembg lists "
            "where they are)"
        ) from None


def _session_of_file(rembg, file: Path):
    def session(kind: str):
        return rembg.new_session(
            kind, providers=["CPUExecutionProvider"], model_path=str(file.absolute())
        )

    if not file.is_file():
        raise UserError(f"--model_file: {file} does not exist")
    os.environ["U2NET_HOME"] = str(file.absolute().parent)  # the only folder that rembg reads
    try:
        u2net = session("u2net_custom")
        is_isnet = u2net.inner_session.get_inputs()[0].shape[-1] == 1024  # it takes other pixels
        return session("dis_custom") if is_isnet else u2net
    except Exception as error:
        raise UserError(
            f"--model_file {file}: cannot be used as a model of rembg ({type(error).__name__})"
        ) from None


# ---------------------------------------------------------------------------- faces
def face_cropper(model_file: Path | None, margin: float):
    """A change for `convert`: the largest, most central face in a 3:4 portrait.

    `margin` times the face's height is left on each side. Without a face, the winners' centre crop.
    Raises UserError if `model_file` is no face detector (None: the one of the toolkit).
    """
    return cropper(FaceDetector(model_file), margin)


def cropper(detect, margin: float):
    """As face_cropper, with any detector.

    detect: (H, W, 3) RGB -> (N, >= 4) rows of left, top, width, height.
    """

    def change(photo: Image.Image):
        faces = detect(np.asarray(photo))
        if not len(faces):
            box = tuple(round(value) for value in crop_box(*photo.size, WINNERS_CROP))
            return photo.crop(box), "no face: centre crop", box
        box = portrait(best_face(faces, *photo.size), margin, *photo.size)
        return photo.crop(box), "face", box

    return change
