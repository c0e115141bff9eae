"""Shapes, lines and soft shadows on a canvas, (H, W, 3) uint8, in parts of a pixel."""

import cv2
import numpy as np


def colour(rgb) -> tuple:
    return tuple(int(v) for v in np.clip(rgb, 0, 255))


def points(xy) -> np.ndarray:
    """(N, 2) coordinates -> what OpenCV draws with 4 bits below the pixel."""
    return np.round(np.asarray(xy, float) * 16).astype(np.int32).reshape(-1, 1, 2)


def shape(canvas, xy, rgb) -> None:
    cv2.fillPoly(canvas, [points(xy)], colour(rgb), cv2.LINE_AA, 4)


def line(canvas, xy, rgb, thickness=1.0) -> None:
    cv2.polylines(
        canvas, [points(xy)], False, colour(rgb), max(1, round(thickness)), cv2.LINE_AA, 4
    )


def oval(centre, radii, start=0.0, end=360.0, power=2.0) -> np.ndarray:
    """Points of a superellipse from angle `start` to `end` in degrees (0 right, 90 down)."""
    angle = np.radians(np.linspace(start, end, 73))
    c, s = np.cos(angle), np.sin(angle)
    return np.array(centre) + np.array(radii) * np.stack(
        [np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)], 1
    )


def soft(canvas, xy, rgb, blur, strength=1.0, thickness=None) -> None:
    """A shape, or with `thickness` a line, whose edges fade over `blur` pixels."""
    xy, margin = np.asarray(xy, float), int(3 * blur) + 3
    left, top = np.clip(xy.min(0).astype(int) - margin, 0, canvas.shape[1::-1])
    right, bottom = np.clip(xy.max(0).astype(int) + margin, 0, canvas.shape[1::-1])
    if strength <= 0 or right <= left or bottom <= top:
        return
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    if thickness:
        cv2.polylines(alpha, [points(xy - (left, top))], False, 255, thickness, cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(alpha, [points(xy - (left, top))], 255, cv2.LINE_AA, 4)
    alpha = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), blur)[..., None] * (
        min(strength, 1.0) / 255
    )
    region = canvas[top:bottom, left:right]
    region[:] = (region * (1 - alpha) + np.clip(rgb, 0, 255) * alpha).astype(np.uint8)
