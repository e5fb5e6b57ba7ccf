"""Draw a subject on a background, write text on it, strike it out.

The same arguments and generator state give the same pixels. Used by `demo.draw` and `demo.pretrain`.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from demo.pen import Colour, Pen
from demo.subjects import SUBJECTS

BACKGROUNDS: dict[str, Colour] = {
    "blue": (70, 130, 210),
    "green": (96, 170, 96),
    "orange": (240, 160, 80),
    "pink": (240, 170, 196),
    "purple": (140, 104, 180),
    "grey": (168, 172, 176),
    "brown": (150, 116, 84),
    "turquoise": (80, 190, 186),
}
"""Background colours by name, RGB. They are combined with all subjects, so they do not predict the label."""

PATTERNS = ("plain", "gradient", "rays", "stripes", "dots", "ground")
LAYOUTS = ("top", "bottom", "both", "bar")

_RED: Colour = (224, 16, 24)
# Shapes are drawn at twice the size and shrunk: Pillow does not antialias polygons.
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Style:
    """Size (width, height) in pixels, background pattern, and whether the subject is struck out.

    Raises ValueError for an unknown pattern or a side under 32.
    """

    size: tuple[int, int] = (256, 256)
    pattern: str = "gradient"
    crossed: bool = False

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern must be one of {PATTERNS}, got {self.pattern!r}")
        if min(self.size) < 32:
            raise ValueError(f"size must be at least 32 x 32, got {self.size}")


def draw_picture(subject: str, background: str, style: Style, rng: random.Random) -> Image.Image:
    """Draw a subject on a background, with nothing written on it.

    Returns an RGB image of `style.size`. Raises `KeyError` for an unknown subject or background.
    """
    width, height = (side * _OVERSAMPLING for side in style.size)
    image = Image.new("RGB", (width, height), _vary(BACKGROUNDS[background], rng))
    canvas = ImageDraw.Draw(image)
    _draw_pattern(image, style.pattern, BACKGROUNDS[background], rng)
    radius = min(width, height) * rng.uniform(0.27, 0.35)
    slack = 0.06 * min(width, height)
    centre = (width / 2 + rng.uniform(-slack, slack), height / 2 + rng.uniform(-slack, slack))
    pen = Pen(canvas, centre, radius, angle=rng.uniform(-0.22, 0.22), mirrored=rng.random() < 0.5)
    SUBJECTS[subject](pen, rng)
    if style.crossed:
        _cross_out(pen, rng)
    return image.resize(style.size, Image.Resampling.LANCZOS)


def write_caption(image: Image.Image, text: str, layout: str) -> Image.Image:
    """Write `text` on a copy of an RGB image.

    `layout` is "top", "bottom" or "both" (white capitals with a black edge; "both" splits the words), or "bar" (black
    on a white bar added above, so the result is taller). Raises `ValueError` for another layout.
    """
    words = text.upper().split()
    if layout == "bar":
        return _with_bar(image, words)
    if layout == "both":
        middle = (len(words) + 1) // 2
        parts = [(words[:middle], True), (words[middle:], False)]
    elif layout in ("top", "bottom"):
        parts = [(words, layout == "top")]
    else:
        raise ValueError(f"layout must be top, bottom, both or bar, got {layout!r}")
    image = image.copy()
    for part, at_top in parts:
        _write_block(image, part, at_top)
    return image


def _vary(colour: Colour, rng: random.Random, spread: int = 18) -> Colour:
    red, green, blue = (max(0, min(255, channel + rng.randint(-spread, spread))) for channel in colour)
    return red, green, blue


def _draw_pattern(image: Image.Image, pattern: str, colour: Colour, rng: random.Random) -> None:
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    other = _vary((colour[0] * 3 // 4, colour[1] * 3 // 4, colour[2] * 3 // 4), rng)
    if pattern == "gradient":
        shading = Image.linear_gradient("L").resize(image.size)
        image.paste(Image.new("RGB", image.size, other), mask=shading)
    elif pattern == "rays":
        reach, spokes, turn = width + height, rng.choice((8, 10, 12)), rng.random()
        for spoke in range(spokes):
            ends = [2 * math.pi * (spoke + turn + part) / spokes for part in (0.0, 0.5)]
            tips = [(width / 2 + reach * math.cos(a), height / 2 + reach * math.sin(a)) for a in ends]
            canvas.polygon([(width / 2, height / 2), *tips], fill=other)
    elif pattern == "stripes":
        step, lean = width / rng.choice((4, 6, 8)), rng.uniform(-0.5, 0.5) * height
        for i in range(-8, 17, 2):
            left, right = i * step, (i + 1) * step
            canvas.polygon([(left, 0), (right, 0), (right + lean, height), (left + lean, height)], fill=other)
    elif pattern == "dots":
        step = width / rng.choice((5, 7, 9))
        for row in range(math.ceil(height / step) + 1):
            for column in range(math.ceil(width / step) + 1):
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                canvas.ellipse((x - step / 5, y - step / 5, x + step / 5, y + step / 5), fill=other)
    elif pattern == "ground":
        canvas.rectangle((0, height * rng.uniform(0.6, 0.75), width, height), fill=other)


def _cross_out(pen: Pen, rng: random.Random) -> None:
    upright = Pen(pen.canvas, pen.centre, pen.radius * rng.uniform(1.0, 1.2), angle=rng.uniform(-0.15, 0.15))
    thick = rng.uniform(0.16, 0.24)
    upright.stroke([(-0.8, -0.8), (0.8, 0.8)], thick, _RED)
    if rng.random() < 0.5:
        upright.stroke([(0.8, -0.8), (-0.8, 0.8)], thick, _RED)
    else:
        upright.stroke([(1.1 * math.cos(i / 8), 1.1 * math.sin(i / 8)) for i in range(52)], thick, _RED)


def _wrap(words: list[str], size: int, width: float) -> tuple[list[str], ImageFont.FreeTypeFont]:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's bundled font, the same on each machine
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines, font


def _write_block(image: Image.Image, words: list[str], at_top: bool) -> None:
    size = max(8, image.height // 11)
    lines, font = _wrap(words, size, image.width * 0.94)
    edge = max(1, size // 9)
    line_height = round(size * 1.15)
    y = 2 + edge if at_top else image.height - line_height * len(lines) - 2 * edge
    canvas = ImageDraw.Draw(image)
    for line in lines:
        place = (image.width / 2, y)
        canvas.text(place, line, fill="white", font=font, anchor="ma", stroke_width=edge, stroke_fill="black")
        y += line_height


def _with_bar(image: Image.Image, words: list[str]) -> Image.Image:
    size = max(8, image.height // 13)
    lines, font = _wrap(words, size, image.width * 0.94)
    line_height = round(size * 1.2)
    bar = line_height * len(lines) + size // 2
    taller = Image.new("RGB", (image.width, image.height + bar), "white")
    taller.paste(image, (0, bar))
    canvas = ImageDraw.Draw(taller)
    for row, line in enumerate(lines):
        canvas.text((size / 2, size / 4 + row * line_height), line, fill="black", font=font)
    return taller
