"""The HTML page of a report: one file that needs no other, readable on a phone, and its pictures as PNGs beside it."""

import base64
import html
import io
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt

from core.files import atomic
from core.photo import open_photo, upright_rgb

DPI = 150


STYLE = """*{box-sizing:border-box}
body{font:16px/1.5 system-ui,"Noto Sans KR","Malgun Gothic","NanumGothic",sans-serif;max-width:1120px;margin:0 auto;padding:1em;color:#222}
h1{font-size:1.7em;margin:.3em 0;overflow-wrap:anywhere}h2{font-size:1.25em;margin:2.2em 0 .3em;border-top:1px solid #ccc;padding-top:.8em}
p{margin:.3em 0;max-width:50em}.help{color:#555}nav{font-size:14px;margin:1em 0}nav a{margin-right:1.1em;white-space:nowrap}a{color:#0072B2}
.tiles{display:flex;flex-wrap:wrap;gap:.6em;margin:1em 0}.tiles div{background:#f2f5f8;border-radius:6px;padding:.5em .9em;min-width:6.5em}
.tiles b{display:block;font-size:1.6em;line-height:1.2;font-variant-numeric:tabular-nums}.tiles small{color:#555}
ul{padding-left:1.2em;max-width:50em}li{margin:.3em 0}
.charts{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}.scroll{overflow-x:auto;max-width:100%}
.charts img{max-width:100%;height:auto;display:block}.charts .scroll img{max-width:none}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:15px}
td,th{white-space:nowrap;padding:.25em .8em;text-align:left;border-bottom:1px solid #e4e4e4}th{color:#555;font-weight:600}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:1em .8em;margin:.8em 0}
.gallery figure{margin:0;font-size:13px;line-height:1.35;overflow-wrap:anywhere}
.gallery img{width:100%;aspect-ratio:3/4;object-fit:contain;background:#eee}.gallery .name{color:#666;font-size:12px}
.right{font-weight:600;color:#0072B2}"""


class Section(NamedTuple):
    """A part of a page. text: HTML above the pictures; with `embed` False they are written as PNGs only, since `text` shows the same."""

    heading: str
    text: str = ""
    figures: object = (
        None  # a figure of matplotlib, a list of them, or None; closed as they are drawn
    )
    embed: bool = True


def write_page(output: Path, title: str, sections, summary: str = "") -> Path:
    """output/index.html (title, summary, links to the sections, the sections) and a PNG for each figure."""
    parts, links = [], []
    _remove_pictures(output)
    for number, section in enumerate((Section(*section) for section in sections), start=1):
        links.append(f'<a href="#s{number}">{html.escape(section.heading)}</a>')
        parts.append(f'<h2 id="s{number}">{html.escape(section.heading)}</h2>\n{section.text}')
        figures = (
            section.figures
            if isinstance(section.figures, list)
            else [section.figures]
            if section.figures
            else []
        )
        name = _picture_name(number, section.heading)
        pictures = [
            _write_picture(
                figure, output / f"{name}{f'-{n}' if len(figures) > 1 else ''}.png", section.heading
            )
            for n, figure in enumerate(figures, start=1)
        ]
        if section.embed and pictures:
            parts.append('<div class="charts">' + "\n".join(pictures) + "</div>")
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{summary}\n"
        f"<nav>{' '.join(links)}</nav>\n" + "\n".join(parts) + "\n</html>\n"
    )
    with atomic(output / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output / "index.html"


def _picture_name(number: int, heading: str) -> str:
    return f"{number:02d}-" + "-".join(re.findall(r"\w+", heading.lower())[:5])


def _remove_pictures(output: Path) -> None:
    """Those of an earlier page here, which may have had other sections; no other file."""
    page = output / "index.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    for number, heading in re.findall(r'<h2 id="s(\d+)">(.*?)</h2>', text):
        name = _picture_name(int(number), html.unescape(heading))
        for picture in (
            output / f"{name}.png",
            *(output / f"{name}-{n}.png" for n in range(1, 10)),
        ):
            picture.unlink(missing_ok=True)


def _write_picture(figure, path: Path, alt: str) -> str:
    """Write the figure to `path`; the same as an HTML image, sharp on dense screens. One too wide for a phone scrolls there."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    width = round(figure.get_size_inches()[0] * 100)
    plt.close(figure)
    with atomic(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    image = f'<img width="{width}" alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
    return f'<div class="scroll">{image}</div>' if width > 640 else image


def note(text: str) -> str:
    """A sentence on how to read what follows."""
    return f'<p class="help">{html.escape(text)}</p>'


def tiles(numbers) -> str:
    """What counts most, large. numbers: (name, number as text, small print)."""
    cells = "".join(
        f"<div>{html.escape(name)}<b>{html.escape(number)}</b><small>{html.escape(small)}</small></div>"
        for name, number, small in numbers
    )
    return f'<div class="tiles">{cells}</div>'


def bullets(sentences) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def table(rows, header) -> str:
    """An HTML table of text and numbers."""
    cells = [
        [html.escape(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row]
        for row in rows
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def gallery(paths, captions, names) -> str:
    """Photos in a grid that fits the screen, each with its number, its caption's lines (text, or (text, True) for a right one) and name."""
    cells = []
    for number, (path, caption) in enumerate(zip(paths, captions, strict=True), start=1):
        lines = [line if isinstance(line, tuple) else (line, False) for line in caption]
        said = "<br>".join(
            f'<span class="right">✓ {html.escape(line)}</span>' if right else html.escape(line)
            for line, right in lines
        )
        name = html.escape(str(names[number - 1])).replace("/", "/<wbr>")
        cells.append(
            f'<figure>{_thumbnail(path)}<figcaption><b>{number}</b> {said}<div class="name">{name}</div>'
            "</figcaption></figure>"
        )
    return f'<div class="gallery">{"".join(cells)}</div>'


def _thumbnail(path) -> str:
    try:
        with open_photo(path) as stored:
            stored.draft("RGB", (240, 320))
            photo = upright_rgb(stored)
        photo.thumbnail((240, 320))
        stream = io.BytesIO()
        photo.save(stream, "JPEG", quality=85)
    except Exception as error:  # decoders raise anything on hostile bytes
        return f"<p>{html.escape(getattr(error, 'reason', 'broken: its pixels cannot be decoded'))}</p>"
    return (
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'
    )
