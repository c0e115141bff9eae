"""demo.py's page in a real browser: a photo dropped, its table read and saved, the box in a
camera's picture, both languages.

    pip install playwright && playwright install chromium      (or --browser /usr/bin/chromium)
    python benchmarks/browser.py --checkpoint swin.onnx --shots shots/

Chromium runs without a window and with a film instead of a camera: a person of the sample set who
walks by. Ends with status 2 and the reason if anything is not as it should be, a request to another
machine included.
"""

import argparse
import base64
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from preparation.sample import draw_photo, look_of, make_people  # noqa: E402

DROP = """([base64, name]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, { type: "image/jpeg" }));
    const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
    document.querySelector("#drop").dispatchEvent(event);
}"""


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--checkpoint", required=True, metavar="FILE", help="model file or ONNX")
    p.add_argument("--browser", metavar="FILE", help="Chromium (default: playwright's own)")
    p.add_argument("--shots", type=Path, metavar="DIR", help="keep pictures of the page here")
    p.add_argument("--port", type=int, default=7861)
    return p.parse_args(arguments)


def people() -> list[np.ndarray]:
    """Photos (256, 192, 3) BGR of three people of the sample set without masks."""
    return [draw_photo(look_of(p), 2, p.seed, (256, 192))[:, :, ::-1] for p in make_people(3, 0, 0)]


def film(path: Path, photo: np.ndarray) -> None:
    """Write what Chromium takes for a camera: a person who walks from left to right, raw video of
    640 x 480.
    """
    with path.open("wb") as stream:
        stream.write(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420jpeg\n")
        for x in range(40, 400, 12):
            frame = np.full((480, 640, 3), 150, np.uint8)
            frame[120:376, x : x + 192] = photo
            stream.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())


def drive(page, address: str, photos: list[Path], shots: Path) -> None:
    """Use the page as somebody would; UserError with what is wrong."""
    elsewhere = []
    page.on("request", lambda r: r.url.startswith(("blob:", address)) or elsewhere.append(r.url))
    page.on("pageerror", lambda error: elsewhere.append(f"error: {error}"))
    page.goto(address)

    for photo in photos:
        page.evaluate(DROP, [base64.b64encode(photo.read_bytes()).decode(), photo.name])
    page.locator("#table td.share").nth(4 * 3 - 1).wait_for()
    page.screenshot(path=shots / "photos.png", full_page=True)
    with page.expect_download() as download:
        page.click("#save")
    rows = list(csv.DictReader(Path(download.value.path()).open(encoding="utf-8-sig")))
    check(
        [row["photo"] for row in rows] == ["one.jpg"] + ["three.jpg"] * 3, "the rows of the table"
    )
    check(
        all(row["mask"] and float(row["mask_probability"]) > 0.3 for row in rows), "the predictions"
    )
    page.click("#start")
    page.locator('#live[data-people="1"]').wait_for()
    page.screenshot(path=shots / "camera.png", full_page=True)
    page.click("#snap")
    page.locator("#table td.share").nth(5 * 3 - 1).wait_for()
    page.click("#ko")
    check("마스크" in page.inner_text("h1"), "the page in Korean")
    page.screenshot(path=shots / "korean.png", full_page=True)
    check(not elsewhere, f"requests to other places or errors: {elsewhere}")
    print(page.inner_text("#table"))


def check(good: bool, what: str) -> None:
    if not good:
        raise UserError(f"not as it should be: {what}")


def main(args) -> int:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("playwright is not installed; 'pip install playwright'") from None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shots = args.shots or folder
        shots.mkdir(parents=True, exist_ok=True)
        faces = people()
        cv2.imwrite(str(folder / "one.jpg"), faces[0])
        cv2.imwrite(str(folder / "three.jpg"), np.hstack(faces))
        film(folder / "film.y4m", faces[1])
        command = [sys.executable, ROOT / "demo.py", "--checkpoint", args.checkpoint]
        command += ["--port", str(args.port)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
            sync_playwright() as p,
        ):
            try:
                address = server.stdout.readline().split()[1]
                flags = [
                    "--use-fake-device-for-media-stream",
                    "--use-fake-ui-for-media-stream",
                    "--no-sandbox",
                    f"--use-file-for-fake-video-capture={folder / 'film.y4m'}",
                ]
                browser = p.chromium.launch(executable_path=args.browser, args=flags)
                photos = [folder / "one.jpg", folder / "three.jpg"]
                drive(browser.new_page(locale="en-US"), address, photos, shots)
                browser.close()
            finally:
                server.terminate()
    print("the page works: photos dropped, table saved, camera predicted, nothing sent elsewhere")
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(main, ARGS)
