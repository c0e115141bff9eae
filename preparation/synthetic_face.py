"""Synthetic faces: a look that stays the same, and photos of it.

Nothing here comes from a photo. All that a picture shows is a function of seed, person and photo:
the same seed and the same library versions give the same bytes. Coordinates are pixels of the
384 x 512 reference frame.
"""

import cv2
import numpy as np

from core.photo import REFERENCE
from preparation.brush import line, oval, points, shape, soft

HEIGHT, WIDTH = REFERENCE
CENTRE = (WIDTH / 2, 262.0)  # of the face

MASK_COLOURS = [
    *((238, 240, 242), (150, 190, 220), (45, 46, 50), (225, 170, 185)),
    *((120, 128, 138), (196, 176, 150), (90, 120, 100), (250, 236, 200)),
]
HAIR_COLOURS = [(28, 22, 20), (45, 32, 26), (70, 46, 32), (24, 24, 30), (92, 64, 44)]
SKIN_COLOURS = [(244, 212, 188), (232, 192, 160), (220, 176, 140), (248, 220, 200), (204, 158, 124)]


def look_of(person) -> dict:
    """Everything about a face that stays the same from photo to photo.

    Cues of gender and age overlap; none decides alone.
    """
    r = np.random.default_rng(person.seed)
    female, old = person.gender == 1, np.clip((person.age - 22) / 50, 0, 1)
    grey = np.clip((person.age - 38 + r.normal(0, 6)) / 26, 0, 1)
    grey *= 0.55 if female and r.random() < 0.35 else 1.0  # dyed
    hair = one_of(HAIR_COLOURS, r) * (1 - grey) + np.array((205, 205, 208)) * grey
    skin = one_of(SKIN_COLOURS, r) + r.normal(0, 5, 3) - old * np.array((14, 18, 18))
    return {
        "skin": skin,
        "hair": hair,
        "old": old + r.normal(0, 0.05),
        "width": r.normal(93 if female else 99, 4.5),
        "height": r.normal(132, 5),
        "jaw": r.normal(0.62 if female else 0.78, 0.06),
        "long_hair": r.random() < (0.85 if female else 0.07),
        "fringe": r.random() < (0.45 if female else 0.3),
        "volume": r.uniform(0.9, 1.2),
        "receding": 0.0 if female else np.clip(r.normal(0.75 * old, 0.2), 0, 1),
        "brow": r.normal(5.0 if female else 8.0, 1.1),
        "brow_tilt": r.normal(0.05, 0.06),
        "eye": r.normal(20 if female else 18, 1.3),
        "eye_gap": r.normal(41, 2.5),
        "iris": np.array((60, 42, 30)) + r.normal(0, 10, 3),
        "lash": r.normal(2.8 if female else 1.1, 0.5),
        "nose": r.normal(20 if female else 24, 2),
        "lips": r.normal(1.0 if female else 0.6, 0.18),
        "mouth": r.normal(33, 3),
        "beard": 0.0 if female else max(0.0, r.normal(0.35, 0.35)),
        "glasses": r.random() < 0.2 + 0.25 * old,
        "earrings": female and r.random() < 0.4,
        "cloth": muted(r) + r.normal(0, 22, 3),
        "spots": r.integers(2**31),
    }


def one_of(colours: list, r) -> np.ndarray:
    return np.array(colours[r.integers(len(colours))])


def muted(r) -> np.ndarray:
    """A colour of walls and clothes: any brightness, little saturation."""
    return r.uniform(70, 235) + r.normal(0, 16, 3)


def pixels(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)


def curve(x, half: float, height, count: int) -> list[tuple]:
    """Points from x - half to x + half; height: t from -1 to 1 -> y."""
    return [(x + t * half, height(t)) for t in np.linspace(-1, 1, count)]


def face_outline(look) -> np.ndarray:
    """The head from the hairline round the jaw: an oval above, narrower and squarer below."""
    outline = oval(CENTRE, (look["width"], look["height"]))
    below = np.clip((outline[:, 1] - CENTRE[1]) / look["height"], 0, 1)
    wider = 1 + (look["jaw"] - 0.72) * 0.55 * np.sin(np.pi * below)
    outline[:, 0] = CENTRE[0] + (outline[:, 0] - CENTRE[0]) * wider
    sag = look["old"] * 5 * np.exp(-((below - 0.75) ** 2) / 0.03)
    outline[:, 0] += np.sign(outline[:, 0] - CENTRE[0]) * sag
    return outline


def draw_background(canvas, r, look) -> None:
    top, bottom = (muted(r) for _ in range(2))
    ramp = np.linspace(0, 1, HEIGHT)[:, None, None]
    canvas[:] = pixels(top * (1 - ramp) + bottom * ramp)
    for _ in range(r.integers(0, 4)):
        x, y = r.integers(0, WIDTH), r.integers(0, HEIGHT)
        w, h = r.integers(30, 160), r.integers(40, 220)
        shape(canvas, [(x, y), (x + w, y), (x + w, y + h), (x, y + h)], muted(r))
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), float(r.uniform(1, 7)))


def draw_head(canvas, look, dx) -> None:
    skin, hair, cx, cy = look["skin"], look["hair"], *CENTRE
    if look["long_hair"]:
        radii = (look["width"] * 1.28 * look["volume"], look["height"] * 1.32)
        shape(canvas, oval((cx - dx / 2, cy + 28), radii, power=2.5), hair * 0.8)
    neck = look["width"] * (0.52 if look["jaw"] < 0.7 else 0.62)
    throat, shoulders = (cx - neck, cx + neck), (cx + neck + 8, cx - neck - 8)
    corners = [*((x, cy + 70) for x in throat), *((x, cy + 190) for x in shoulders)]
    shape(canvas, corners, skin * 0.86)
    shape(canvas, oval((cx, 570), (176, 152), power=2.6), look["cloth"])
    shape(canvas, oval((cx, 424), (neck + 10, 26), 0, 180), skin * 0.86)
    line(canvas, oval((cx, 424), (neck + 10, 26), 0, 180), look["cloth"] * 0.8, 5)
    for side in (-1, 1):
        ear = (cx + side * (look["width"] + 3) - dx * 0.4, cy + 2)
        shape(canvas, oval(ear, (12, 25)), skin * 0.92)
        shape(canvas, oval(ear, (6, 15)), skin * 0.82)
        if look["earrings"]:
            shape(canvas, oval((ear[0], ear[1] + 29), (4, 5)), (235, 205, 110))
    outline = face_outline(look)
    shape(canvas, outline, skin)
    soft(canvas, outline[outline[:, 0] > cx + 55], skin * 0.86, 9, 0.8)
    for side in (-1, 1):
        cheek = oval((cx + side * 52 + dx, cy + 42), (24, 17))
        soft(canvas, cheek, skin * (1.0, 0.88, 0.86), 9, 0.7)


def draw_age(canvas, look, dx) -> None:
    """Folds, bags, lines and spots, deeper with the years."""
    skin, cx, cy, old = look["skin"], *CENTRE, max(0.0, look["old"])
    dark = skin * (1 - 0.42 * old)
    for side in (-1, 1):
        x = cx + dx + side * look["eye_gap"]
        soft(canvas, oval((x, cy + 1), (20, 9), 0, 180), dark, 2.5, 0.85 * old)
        for k in range(3):  # crow's feet
            foot = [(x + side * 24, cy - 18 + 3 * k), (x + side * (34 + 5 * old), cy - 26 + 9 * k)]
            soft(canvas, foot, dark, 1.0, np.clip(1.6 * old - 0.25 * k, 0, 1), 2)
        x, angles = cx + dx * 1.2 + side * 30, (200, 300) if side > 0 else (-20, -120)
        fold = oval((x, cy + 62), (16, 34), *angles)
        fold[:, 0] = 2 * x - fold[:, 0]
        soft(canvas, fold, dark, 1.6, np.clip(1.4 * old - 0.1, 0, 1), 3)
    for k in range(4):
        y = cy - 92 + 13 * k
        wave = curve(cx + dx, 50, lambda t, y=y: y - 4 * np.cos(t * 3), 24)
        soft(canvas, wave, dark, 1.1, np.clip(1.7 * old - 0.2 * k - 0.15, 0, 1), 2)
    r = np.random.default_rng(look["spots"])
    for _ in range(int(14 * old)):
        x, y, radius = r.normal(cx, 36), r.normal(cy, 42), r.uniform(1.5, 4)
        soft(canvas, oval((x, y), (radius, radius)), skin * 0.78, 1.2, 0.7)


def draw_features(canvas, look, r, dx) -> None:
    skin, hair, cx, cy = look["skin"], look["hair"], *CENTRE
    openness, gaze = r.uniform(0.8, 1.1) * (1 - 0.18 * look["old"]), r.normal(0, 2.5)
    for side in (-1, 1):
        x, y = cx + dx + side * look["eye_gap"], cy - 12
        eye = (look["eye"], look["eye"] * 0.42 * openness)
        shape(canvas, oval((x, y), eye), (246, 244, 240))
        shape(canvas, oval((x + gaze, y), (eye[1] * 1.05, eye[1] * 1.05)), look["iris"])
        shape(canvas, oval((x + gaze, y), (eye[1] * 0.5, eye[1] * 0.5)), (14, 12, 12))
        shape(canvas, oval((x + gaze - 2, y - 2), (1.8, 1.8)), (250, 250, 250))
        line(canvas, oval((x, y), eye, 180, 360), hair * 0.3 + 20, look["lash"])
        line(canvas, oval((x, y - 7), (eye[0], eye[1]), 200, 340), skin * 0.75, 1)
        tilt = look["brow_tilt"] * 40 * side
        brow = curve(x, 25, lambda t, y=y, tilt=tilt: y - 25 - tilt * t - 6 * (1 - t * t), 16)
        line(canvas, brow, hair * 0.75 + 8, look["brow"])
    nose = cx + dx * 1.5
    soft(canvas, oval((nose + 8, cy + 22), (7, 34)), skin * 0.87, 4, 0.8)
    soft(canvas, oval((nose, cy + 47), (look["nose"], 10)), skin * 0.84, 3, 0.9)
    for side in (-1, 1):
        shape(canvas, oval((nose + side * look["nose"] * 0.48, cy + 51), (4, 2.6)), skin * 0.5)
    mouth, y, smile, lips = cx + dx * 1.2, cy + 84, r.uniform(-2, 7), look["lips"]
    lip = skin * (0.92 - 0.06 * lips, 0.72 - 0.16 * lips, 0.72 - 0.12 * lips)
    t = np.linspace(-1, 1, 17)
    x, middle = mouth + t * look["mouth"], y + 2 - smile * t * t
    between = np.stack([x, middle], 1)
    lower = middle + 12 * lips * (1 - t * t)
    upper = middle - 8 * lips * (1 - t * t) + 2 * np.exp(-60 * t * t)
    for edge, rgb in ((lower, lip), (upper, lip * 0.93)):
        shape(canvas, np.concatenate([between, np.stack([x, edge], 1)[::-1]]), rgb)
    line(canvas, between, lip * 0.6, 2)
    if look["beard"] > 0.15:
        draw_beard(canvas, look, (mouth, y + 2))


def draw_beard(canvas, look, mouth) -> None:
    r, (cx, cy) = np.random.default_rng(look["spots"]), CENTRE
    lower = face_outline(look)
    chin = lower[lower[:, 1] > cy + 40]
    edge = np.vstack([chin, [[cx - 60, cy + 58], [cx, cy + 66], [cx + 60, cy + 58]]])
    region = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(region, [points(edge)], 255, cv2.LINE_AA, 4)
    cv2.fillPoly(region, [points(oval(mouth, (look["mouth"] * 0.95, 13)))], 0, cv2.LINE_AA, 4)
    grain = cv2.GaussianBlur(r.random((HEIGHT, WIDTH)).astype(np.float32), (0, 0), 0.8)
    alpha = cv2.GaussianBlur(region.astype(np.float32) / 255, (0, 0), 5)
    alpha = (alpha * np.clip(look["beard"], 0, 0.85) * (0.4 + grain))[..., None]
    canvas[:] = pixels(canvas * (1 - alpha) + look["hair"] * 0.8 * alpha)


def draw_hair(canvas, look, dx) -> None:
    hair, cx, cy, w, h = look["hair"], *CENTRE, look["width"], look["height"]
    if look["receding"] > 0.85:  # a bald top, hair at the sides
        for side in (-1, 1):
            shape(canvas, oval((cx + side * w * 0.97 - dx * 0.4, cy - 42), (13, 48)), hair)
        return
    top = oval((cx, cy - 28), (w * 1.1 * look["volume"], h * 0.98 * look["volume"]), 180, 360)
    line_y = cy - 62 - 52 * look["receding"]
    t = np.linspace(1, -1, 25)
    edge = line_y + (24 if look["fringe"] else -20) * (1 - t * t) + 46 * t**4
    shape(canvas, np.vstack([top, np.stack([cx + dx * 0.5 + t * w * 1.02, edge], 1)]), hair)
    r = np.random.default_rng(look["spots"])
    crown, s = cy - h * 1.12 * look["volume"], np.linspace(0.12, 1, 8)
    for _ in range(26):
        t, shade = r.uniform(-0.95, 0.95), r.uniform(0.75, 1.35)
        x, y = cx + t * w * (0.55 + 0.5 * s), crown + s * (line_y - crown) * 0.9 + 14 * t * t
        line(canvas, np.stack([x, y], 1), hair * shade + 6, 1)
    if look["long_hair"]:
        for side in (-1, 1):
            x = cx + side * w * 1.06 - dx * 0.3
            shape(canvas, oval((x + side * 8, cy + 52), (19, 128), power=2.4), hair * 0.93)


def draw_mask(canvas, look, r, dx, state) -> None:
    """state 0: over nose and mouth; 1: below the nose, on the chin, or hanging from one ear."""
    cx, cy = CENTRE
    rgb = one_of(MASK_COLOURS, r) + r.normal(0, 8, 3)
    if state == 0:
        drop = r.normal(0, 3)
    else:
        drop = r.uniform(42, 56) if r.random() < 0.55 else r.uniform(74, 92)
    x, top = cx + dx * 1.2, cy + 16 + drop
    bottom = cy + look["height"] + r.uniform(-2, 8) + 0.25 * (drop if state else 0)
    half, kind = look["width"] * r.uniform(0.82, 0.95), r.integers(3)
    high, peak = bottom - top, (16, 2, 26)[kind]
    upper = curve(x, half, lambda t: top - peak * (1 - abs(t)) ** 1.2 + 10 * t * t, 25)
    lower = curve(x, half * 0.92, lambda t: bottom - high * 0.42 * abs(t) ** 2.4, 25)[::-1]
    for side in (-1, 1):
        ear = (cx + side * (look["width"] + 5) - dx * 0.4, cy - 14)
        line(canvas, [(x + side * half, top + 12), ear], rgb * 0.9, 2)
        line(canvas, [(x + side * half * 0.9, bottom - 45), (ear[0], ear[1] + 38)], rgb * 0.85, 2)
    outline = np.array([*upper, *lower])
    soft(canvas, outline + np.array((0, 5)), look["skin"] * 0.6, 5, 0.6)
    shape(canvas, outline, rgb)
    soft(canvas, outline[outline[:, 0] > x + half * 0.4] - np.array((4, 0)), rgb * 0.84, 6, 0.9)
    if kind == 2:
        line(canvas, [(x, top - peak), (x + dx * 0.1, bottom)], rgb * 0.82, 2)
    else:
        for k in range(1, 4):
            fold = curve(x, half * 0.96, lambda t, k=k: top + high * k * 0.22 + 6 * (1 - t * t), 16)
            line(canvas, fold, rgb * 0.87, 1)
    if r.random() < 0.15:
        for k in range(3):
            stripe = curve(x, half * 0.8, lambda t, k=k: top + 18 + 14 * k + 5 * (1 - t * t), 12)
            line(canvas, stripe, r.integers(30, 220, 3), 3)


def draw_glasses(canvas, look, dx) -> None:
    cx, cy = CENTRE
    frame = (38, 36, 40)
    for side in (-1, 1):
        x = cx + dx * 1.2 + side * look["eye_gap"]
        line(canvas, oval((x, cy - 10), (29, 23), power=2.8), frame, 3)
        ear = (cx + side * (look["width"] + 4) - dx * 0.4, cy - 20)
        line(canvas, [(x + side * 29, cy - 14), ear], frame, 3)
    line(canvas, [(cx + dx * 1.2 - 12, cy - 12), (cx + dx * 1.2 + 12, cy - 12)], frame, 3)


def draw_photo(look: dict, state: int, seed, size) -> np.ndarray:
    """One photo (H, W, 3) uint8 RGB; pose, light and background by `seed`.

    state: mask worn (0), worn incorrectly (1), not worn (2).
    """
    r = np.random.default_rng(seed)
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    dx = float(np.clip(r.normal(0, 6), -13, 13))  # how far features move as the head turns
    draw_background(canvas, r, look)
    draw_head(canvas, look, dx)
    draw_age(canvas, look, dx)
    draw_features(canvas, look, r, dx)
    if state < 2:
        draw_mask(canvas, look, r, dx, state)
    draw_hair(canvas, look, dx)
    if look["glasses"]:
        draw_glasses(canvas, look, dx)
    turn = cv2.getRotationMatrix2D(CENTRE, float(r.normal(0, 4)), float(r.normal(1.0, 0.06)))
    turn[:, 2] += r.normal(0, 9, 2)
    canvas = cv2.warpAffine(canvas, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    if size != (HEIGHT, WIDTH):
        canvas = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), float(r.uniform(0.3, 1.2)) * size[0] / HEIGHT)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    light = r.uniform(0.8, 1.15) * (1 + r.normal(0, 0.12) * x + r.normal(0, 0.1) * y)
    noise = r.normal(0, r.uniform(1, 6), size)
    return pixels(canvas * light[..., None] * r.normal(1, 0.04, 3) + noise[..., None])
