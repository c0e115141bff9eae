"""The HTML page of a report: one file that needs no other, and its figures as PNGs beside it."""

import base64
import html
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader

from core.errors import UserError
from core.files import atomic
from core.photo import open_photo, upright_rgb

DPI = 150
THUMBNAIL = (240, 320)  # the largest width and height in pixels

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Tile(NamedTuple):
    """A number that matters most, shown large: `name` above it, `note` in small print below."""

    name: str
    value: str
    note: str


class Line(NamedTuple):
    """A line of a photo's caption; right: marked as the correct one."""

    text: str
    right: bool = False


class Photo(NamedTuple):
    path: Path | str
    lines: list[Line]
    name: str


@dataclass(frozen=True)
class Section:
    """A part of a page, in this order: note, table, photos, figures.

    figures are matplotlib figures, closed when they are written. If `embed` is False they are
    written as PNGs only, because the page shows the same in another form.
    """

    heading: str
    note: str = ""
    header: tuple = ()
    rows: list[tuple] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    figures: list[Any] = field(default_factory=list)
    embed: bool = True


def write_page(output: Path, title: str, sections, tiles=(), sentences=()) -> Path:
    """Write output/index.html and a PNG for each figure; returns the page's path.

    sections: an iterable of Section; a generator draws one section's figures at a time.
    """
    _remove_figures(output)
    rendered = []
    for number, section in enumerate(sections, start=1):
        images = _write_figures(output, number, section)
        photos = [photo._asdict() | {"image": thumbnail(photo.path)} for photo in section.photos]
        shown = {"photos": photos, "images": images if section.embed else []}
        rendered.append(vars(section) | shown)
    page = TEMPLATES.get_template("page.html").render(
        title=title, sections=rendered, tiles=tiles, sentences=sentences
    )
    with atomic(output / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output / "index.html"


def _write_figures(output: Path, number: int, section: Section) -> list[dict]:
    """Write a section's figures as PNGs; returns them as images for the page."""
    name = _figure_name(number, section.heading)
    images = []
    for n, figure in enumerate(section.figures, start=1):
        suffix = f"-{n}" if len(section.figures) > 1 else ""
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
        # Shown at 100 pixels an inch, less than DPI: sharp on dense screens.
        width = round(figure.get_size_inches()[0] * 100)
        plt.close(figure)
        with atomic(output / f"{name}{suffix}.png") as temporary:
            temporary.write_bytes(stream.getvalue())
        uri = _data_uri("image/png", stream.getvalue())
        images.append({"width": width, "alt": section.heading, "data_uri": uri})
    return images


def _figure_name(number: int, heading: str) -> str:
    return f"{number:02d}-" + "-".join(re.findall(r"\w+", heading.lower())[:5])


def _remove_figures(output: Path) -> None:
    """Remove those of an earlier page, which may have had other sections, and no other file.

    UserError if the page there is not a report.
    """
    page = output / "index.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    sections = re.findall(r'<h2 id="s(\d+)">(.*?)</h2>', text)
    if page.exists() and not sections:
        raise UserError(f"{page}: exists and is not a report; give another --output")
    for number, heading in sections:
        name = _figure_name(int(number), html.unescape(heading))
        for suffix in ("", *(f"-{n}" for n in range(1, 10))):
            (output / f"{name}{suffix}.png").unlink(missing_ok=True)


def thumbnail(path) -> dict[str, str]:
    """The photo, small, as a `data_uri`; or the `error` that says why it cannot be shown."""
    try:
        with open_photo(path) as stored:
            stored.draft("RGB", THUMBNAIL)
            photo = upright_rgb(stored)
            photo.thumbnail(THUMBNAIL)
        stream = io.BytesIO()
        photo.save(stream, "JPEG", quality=85)
    except Exception as error:  # decoders raise anything on hostile bytes
        return {"error": getattr(error, "reason", "broken: its pixels cannot be decoded")}
    return {"data_uri": _data_uri("image/jpeg", stream.getvalue())}


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
