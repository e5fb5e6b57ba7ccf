"""Draw outlined shapes on a canvas, scaled, rotated and mirrored.

Used by `demo.subjects` and `demo.scenes`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

INK: Colour = (28, 26, 30)
WHITE: Colour = (250, 250, 246)


@dataclass(frozen=True)
class Pen:
    """Draws in coordinates from -1 to 1 (y down), mapped to the canvas. radius: in pixels; angle: in radians."""

    canvas: ImageDraw.ImageDraw
    centre: Point
    radius: float
    angle: float = 0.0
    mirrored: bool = False

    def place(self, point: Point) -> Point:
        """Canvas coordinates of a point of the square."""
        x, y = (-point[0] if self.mirrored else point[0]), point[1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return (
            self.centre[0] + self.radius * (x * cos - y * sin),
            self.centre[1] + self.radius * (x * sin + y * cos),
        )

    def shape(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon with an ink outline."""
        placed = [self.place(point) for point in points]
        self.patch(points, fill)
        self.canvas.line([*placed, placed[0]], fill=INK, width=self._width(0.045), joint="curve")

    def patch(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon with no outline."""
        self.canvas.polygon([self.place(point) for point in points], fill=fill)

    def blob(self, x: float, y: float, rx: float, ry: float | None = None, fill: Colour = INK) -> None:
        """A filled ellipse with an ink outline; `ry` defaults to `rx`."""
        self.shape(ellipse(x, y, rx, rx if ry is None else ry), fill)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour = INK) -> None:
        """An open line with round ends, `width` in units of the square."""
        placed, thick = [self.place(point) for point in points], self._width(width)
        self.canvas.line(placed, fill=fill, width=thick, joint="curve")
        for x, y in (placed[0], placed[-1]):
            self.canvas.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    def _width(self, width: float) -> int:
        return max(1, round(width * self.radius))


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> list[Point]:
    """The 33 points of an arc from `start` to `stop`, in degrees, clockwise from the right."""
    angles = [math.radians(start + (stop - start) * i / 32) for i in range(33)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def star(outer: float, inner: float, spikes: int) -> list[Point]:
    """The 2 * spikes corners of a star around the origin, its first spike upwards."""
    radii = [outer if i % 2 == 0 else inner for i in range(2 * spikes)]
    return [(r * math.sin(math.pi * i / spikes), -r * math.cos(math.pi * i / spikes)) for i, r in enumerate(radii)]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (`factor` below 1) or lighter."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue
