"""Draw the sixteen subjects of the demo memes from a few shapes each; used by `demo.scenes`."""

import math
import random
from collections.abc import Callable

from demo.pen import INK, WHITE, Colour, Pen, ellipse, shade, star


def _rose(pen: Pen, rng: random.Random) -> None:
    petal = rng.choice([(214, 36, 60), (236, 96, 140), (178, 24, 52)])
    pen.stroke([(0, 0), (0.05, 0.5), (0, 0.98)], 0.1, (46, 122, 50))
    pen.shape([(0.03, 0.7), (0.3, 0.42), (0.58, 0.44), (0.36, 0.68)], (62, 150, 64))
    pen.shape([(0.0, 0.85), (-0.3, 0.55), (-0.55, 0.55), (-0.34, 0.8)], (62, 150, 64))
    for i in range(6):
        angle = math.pi * i / 3
        pen.blob(0.3 * math.cos(angle), -0.36 + 0.3 * math.sin(angle), 0.3, fill=petal)
    for radius, factor in ((0.36, 1.1), (0.24, 0.85), (0.12, 0.65)):
        pen.blob(0, -0.36, radius, fill=shade(petal, factor))


def _sun(pen: Pen, rng: random.Random) -> None:
    rays = rng.choice([10, 12, 14])
    pen.shape(star(0.98, 0.64, rays), (255, 160, 30))
    pen.blob(0, 0, 0.6, fill=(255, 214, 50))
    for side in (-1, 1):
        pen.blob(0.22 * side, -0.12, 0.07)
    pen.stroke(ellipse(0, 0.02, 0.32, 0.28, 20, 160), 0.07)


def _cake(pen: Pen, rng: random.Random) -> None:
    icing = rng.choice([(255, 176, 204), (255, 244, 220), (170, 224, 240)])
    for x in (-0.4, 0.0, 0.4):
        pen.stroke([(x, -0.75), (x, -0.3)], 0.1, (90, 140, 220))
        pen.blob(x, -0.82, 0.07, 0.13, (255, 190, 40))
    pen.shape([(-0.62, -0.35), (0.62, -0.35), (0.62, 0.25), (-0.62, 0.25)], icing)
    pen.shape([(-0.85, 0.2), (0.85, 0.2), (0.85, 0.85), (-0.85, 0.85)], (186, 116, 62))
    for x in (-0.68, -0.34, 0.0, 0.34, 0.68):
        pen.blob(x, 0.24, 0.17, 0.16, icing)
    pen.shape([(-0.98, 0.85), (0.98, 0.85), (0.9, 0.97), (-0.9, 0.97)], WHITE)


def _crown(pen: Pen, rng: random.Random) -> None:
    gold, jewel = (250, 202, 44), rng.choice([(216, 36, 66), (40, 96, 210), (40, 160, 90)])
    pen.shape([(-0.8, 0.6), (-0.95, -0.4), (-0.45, 0.1), (0, -0.7), (0.45, 0.1), (0.95, -0.4), (0.8, 0.6)], gold)
    pen.shape([(-0.82, 0.45), (0.82, 0.45), (0.8, 0.78), (-0.8, 0.78)], shade(gold, 0.85))
    for x, y in ((-0.95, -0.45), (0, -0.75), (0.95, -0.45)):
        pen.blob(x, y, 0.12, fill=jewel)
    for x in (-0.5, 0, 0.5):
        pen.blob(x, 0.62, 0.1, fill=jewel)


def _star_shape(pen: Pen, rng: random.Random) -> None:
    pen.shape(star(0.98, 0.42, 5), rng.choice([(255, 222, 60), (255, 236, 120), (255, 200, 40)]))
    for side in (-1, 1):
        pen.blob(0.15 * side, -0.1, 0.05, 0.1)
    pen.stroke(ellipse(0, 0.08, 0.2, 0.16, 20, 160), 0.05)


def _rainbow(pen: Pen, rng: random.Random) -> None:
    bands = [(226, 44, 44), (250, 150, 36), (252, 226, 60), (62, 176, 80), (56, 110, 220), (140, 70, 190)]
    for i, band in enumerate(bands):
        pen.stroke(ellipse(0, 0.5, 0.92 - 0.11 * i, 1.1 - 0.12 * i, 180, 360), 0.14, band)
    puff = rng.uniform(0.17, 0.22)
    for side in (-1, 1):
        for dx, dy in ((-0.2, 0.05), (0.2, 0.05), (0, -0.08)):
            pen.blob(0.62 * side + dx, 0.55 + dy, puff, fill=WHITE)


def _heart(pen: Pen, rng: random.Random) -> None:
    angles = [2 * math.pi * i / 60 for i in range(60)]
    points = [
        (
            0.95 * math.sin(a) ** 3,
            -0.055 * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)),
        )
        for a in angles
    ]
    pen.shape(points, rng.choice([(232, 30, 70), (244, 80, 130), (220, 20, 40)]))
    pen.blob(-0.45, -0.32, 0.13, 0.18, WHITE)


def _butterfly(pen: Pen, rng: random.Random) -> None:
    wing = rng.choice([(250, 150, 40), (80, 150, 240), (190, 100, 220)])
    for side in (-1, 1):
        pen.blob(0.5 * side, 0.42, 0.34, 0.42, shade(wing, 0.8))
        pen.blob(0.52 * side, -0.3, 0.44, 0.5, wing)
        pen.blob(0.55 * side, -0.34, 0.2, 0.24, WHITE)
        pen.blob(0.5 * side, 0.45, 0.13, 0.17, (255, 226, 90))
        pen.stroke([(0, -0.5), (0.12 * side, -0.8), (0.28 * side, -0.94)], 0.05)
    pen.blob(0, 0.05, 0.1, 0.62, (70, 50, 44))


def _skunk(pen: Pen, rng: random.Random) -> None:
    fur: Colour = rng.choice([(38, 36, 42), (56, 50, 54), (30, 30, 46)])
    pen.shape([(0.35, 0.4), (0.98, 0.1), (0.95, -0.7), (0.5, -0.98), (0.2, -0.7), (0.5, -0.4), (0.45, 0.0)], fur)
    pen.stroke([(0.5, 0.3), (0.75, 0.0), (0.7, -0.5), (0.46, -0.76)], 0.16, WHITE)
    for x in (-0.35, -0.1, 0.25, 0.45):
        pen.stroke([(x, 0.5), (x, 0.92)], 0.16, fur)
    pen.blob(0.02, 0.38, 0.58, 0.36, fur)
    pen.stroke([(-0.5, 0.1), (0.0, 0.1), (0.48, 0.28)], 0.14, WHITE)
    pen.blob(-0.62, 0.16, 0.32, 0.28, fur)
    pen.blob(-0.5, -0.1, 0.1, fill=fur)
    pen.stroke([(-0.62, -0.06), (-0.72, 0.1), (-0.84, 0.22)], 0.1, WHITE)
    pen.blob(-0.92, 0.26, 0.07, fill=(230, 120, 140))
    pen.blob(-0.58, 0.14, 0.06, fill=WHITE)


def _trash_can(pen: Pen, rng: random.Random) -> None:
    metal = rng.choice([(136, 142, 146), (104, 124, 110), (122, 120, 136)])
    pen.stroke([(0.25, -0.5), (0.4, -0.8), (0.62, -0.72)], 0.14, (220, 200, 60))
    pen.shape([(-0.6, -0.42), (0.6, -0.42), (0.48, 0.95), (-0.48, 0.95)], metal)
    for x in (-0.3, 0.0, 0.3):
        pen.stroke([(x * 1.1, -0.22), (x * 0.95, 0.78)], 0.07, shade(metal, 0.6))
    pen.shape([(-0.75, -0.62), (0.7, -0.42), (0.68, -0.28), (-0.78, -0.48)], shade(metal, 1.2))
    pen.shape([(-0.2, -0.56), (-0.16, -0.76), (0.1, -0.72), (0.1, -0.52)], metal)


def _snail(pen: Pen, rng: random.Random) -> None:
    shell = rng.choice([(166, 108, 60), (140, 100, 92), (150, 124, 60)])
    slime: Colour = (176, 180, 120)
    pen.shape([(-0.95, 0.8), (-0.95, 0.3), (-0.6, 0.25), (-0.55, 0.5), (0.6, 0.55), (0.98, 0.8)], slime)
    for x in (-0.92, -0.68):
        pen.stroke([(x + 0.03, 0.35), (x, -0.1)], 0.07, slime)
        pen.blob(x, -0.14, 0.08, fill=WHITE)
    pen.blob(0.12, 0.08, 0.58, fill=shell)
    turns = [i / 48 for i in range(49)]
    pen.stroke(
        [(0.12 + 0.5 * (1 - t) * math.cos(15 * t), 0.08 + 0.5 * (1 - t) * math.sin(15 * t)) for t in turns], 0.08
    )


def _storm_cloud(pen: Pen, rng: random.Random) -> None:
    grey = rng.choice([(92, 98, 112), (74, 78, 90), (110, 112, 120)])
    bolt = [(0.08, 0.1), (-0.22, 0.55), (0.02, 0.52), (-0.12, 0.98), (0.32, 0.4), (0.08, 0.42), (0.3, 0.1)]
    pen.shape(bolt, (255, 220, 50))
    for x in (-0.6, -0.35, 0.5, 0.72):
        pen.stroke([(x, 0.3), (x - 0.12, 0.72)], 0.07, (80, 130, 210))
    puffs = ((-0.55, 0.0, 0.38), (0.55, 0.0, 0.38), (-0.2, -0.35, 0.42), (0.25, -0.28, 0.4), (0, 0.0, 0.4))
    for x, y, radius in puffs:
        pen.blob(x, y, radius, fill=grey)
    pen.patch(ellipse(0, -0.1, 0.66, 0.34), grey)


def _rotten_apple(pen: Pen, rng: random.Random) -> None:
    skin = rng.choice([(150, 134, 60), (126, 110, 52), (160, 120, 70)])
    pen.stroke([(0, -0.45), (0.06, -0.72), (0.18, -0.92)], 0.11, (84, 58, 36))
    pen.blob(-0.3, 0.18, 0.52, 0.68, skin)
    pen.blob(0.3, 0.18, 0.52, 0.68, skin)
    pen.patch(ellipse(0, 0.18, 0.4, 0.56), skin)
    for x, y, radius in ((-0.42, 0.45, 0.16), (0.12, -0.12, 0.13), (-0.4, -0.15, 0.1), (0.1, 0.58, 0.11)):
        pen.blob(x, y, radius, fill=(70, 50, 34))
    pen.stroke([(0.36, 0.2), (0.56, 0.1), (0.66, 0.3), (0.9, 0.16)], 0.2, (130, 196, 70))
    pen.blob(0.9, 0.14, 0.1, fill=(160, 220, 90))


def _sock(pen: Pen, rng: random.Random) -> None:
    cloth = rng.choice([(170, 164, 140), (140, 150, 120), (160, 140, 150)])
    leg = [(-0.1, 0.2), (-0.1, -0.7), (0.5, -0.7), (0.5, 0.4)]
    foot = [(0.35, 0.75), (-0.4, 0.9), (-0.75, 0.8), (-0.78, 0.5), (-0.45, 0.36)]
    pen.shape(leg + foot, cloth)
    pen.shape([(-0.14, -0.75), (0.54, -0.75), (0.54, -0.5), (-0.14, -0.5)], shade(cloth, 0.7))
    pen.blob(-0.5, 0.65, 0.15, 0.12, (236, 190, 160))
    pen.blob(0.25, 0.1, 0.13, fill=shade(cloth, 0.5))
    for x in (-0.85, -0.6, -0.35):
        pen.stroke([(x, 0.2), (x + 0.1, 0.02), (x - 0.06, -0.16), (x + 0.06, -0.36)], 0.06, (120, 170, 40))


def _spider(pen: Pen, rng: random.Random) -> None:
    body: Colour = rng.choice([(44, 40, 46), (78, 52, 40), (60, 44, 72)])
    for side in (-1, 1):
        for i, lift in enumerate((-0.75, -0.4, 0.0, 0.4)):
            knee, foot = (0.62 * side, lift - 0.1), ((0.98 - 0.08 * abs(i - 1)) * side, lift + 0.45)
            pen.stroke([(0.2 * side, 0.05 + 0.1 * i), knee, foot], 0.08, body)
    pen.blob(0, 0.35, 0.42, 0.46, body)
    pen.blob(0, -0.18, 0.28, fill=body)
    for side in (-1, 1):
        pen.blob(0.11 * side, -0.22, 0.09, fill=WHITE)
    pen.shape([(-0.12, 0.2), (0.12, 0.2), (-0.12, 0.55), (0.12, 0.55)], (200, 40, 40))


def _fish_bone(pen: Pen, rng: random.Random) -> None:
    bone = rng.choice([(236, 232, 214), (214, 216, 200), (226, 214, 180)])
    pen.stroke([(-0.4, 0), (0.7, 0)], 0.13, INK)
    for i, height in enumerate((0.46, 0.42, 0.34, 0.26)):
        x = -0.2 + 0.24 * i
        pen.stroke([(x + 0.08, -height), (x, 0), (x + 0.08, height)], 0.13, INK)
        pen.stroke([(x + 0.08, -height), (x, 0), (x + 0.08, height)], 0.07, bone)
    pen.stroke([(-0.4, 0), (0.7, 0)], 0.07, bone)
    pen.shape([(0.68, 0), (0.98, -0.38), (0.9, 0), (0.98, 0.38)], bone)
    pen.shape([(-0.98, 0.05), (-0.7, -0.36), (-0.36, -0.34), (-0.36, 0.34), (-0.7, 0.36)], bone)
    pen.stroke([(-0.72, -0.18), (-0.56, 0.0)], 0.06)
    pen.stroke([(-0.56, -0.18), (-0.72, 0.0)], 0.06)


SUBJECTS: dict[str, Callable[[Pen, random.Random], None]] = {
    "rose": _rose,
    "sun": _sun,
    "cake": _cake,
    "crown": _crown,
    "star": _star_shape,
    "rainbow": _rainbow,
    "heart": _heart,
    "butterfly": _butterfly,
    "skunk": _skunk,
    "trash can": _trash_can,
    "snail": _snail,
    "storm cloud": _storm_cloud,
    "rotten apple": _rotten_apple,
    "smelly sock": _sock,
    "spider": _spider,
    "fish bone": _fish_bone,
}
"""{name: drawing function} of the subjects."""
