"""Draws docs/explanation/rooms.svg: the rooms of the package, and which imports from which.

    python -m docs._extensions.rooms

The arrows are those of the code. One that follows from others is left out: who imports from
`network` has what `network` imports from. tests/test_docs.py holds the file against the code.
"""

import ast
from pathlib import Path

from tests.test_rooms import (
    FLOOR_OF,
    IMPORTED_BY_NAME,
    PACKAGE,
    ROOMS,
    imported,
    module_name,
    package_of,
)

DRAWING = Path(__file__).parents[1] / "explanation" / "rooms.svg"
PLAIN = "plain modules"

# Middle of each box: column and row. A new room gets a place here.
PLACES = {
    PLAIN: (1.5, 0),
    "data": (0.2, 1),
    "startup": (1.5, 1),
    "network": (1.5, 2),
    "sqz": (1.0, 3),
    "litert": (1.85, 3),
    "distributed": (2.7, 3),
    "compression": (1.5, 4),
    "communication": (2.7, 4),
    "inference": (1.5, 5),
    "reports": (1.5, 6),
    "training": (1.5, 7),
    "cli": (1.5, 8),
}
WIDTH, HEIGHT, ACROSS, DOWN = 150, 40, 200, 84
# An arrow that would run through another box bends around this point instead.
BENDS = {
    ("compression", "data"): (0.1, 3.9),
    ("reports", "communication"): (2.7, 5.6),
    ("distributed", PLAIN): (2.95, 0.75),
    ("communication", PLAIN): (3.7, 1.0),
}


def arrows():
    """{(importing room, imported room)}, without those that follow from others."""
    paths = {module_name(path, PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}
    direct = {}
    for module, path in paths.items():
        if module in ("keras_squeezenet", "keras_squeezenet.__main__", *IMPORTED_BY_NAME):
            continue
        for _, name in imported(ast.parse(path.read_text()), paths, package_of(module, path)):
            if name == "keras_squeezenet":
                continue
            here, there = room_of(module), room_of(name)
            if here != there:
                direct.setdefault(here, set()).add(there)

    def below(room):
        return set().union(*({other} | below(other) for other in direct.get(room, ())))

    return {
        (room, other)
        for room, others in direct.items()
        for other in others
        if not any(other in below(third) for third in others - {other})
    }


def room_of(module):
    name = module.split(".")[1]
    return PLAIN if FLOOR_OF[name] == 0 else name


def drawing():
    """The picture as SVG."""
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="20 -12 720 736" '
        'font-family="sans-serif" text-anchor="middle">',
        '<rect x="20" y="-12" width="720" height="736" fill="white"/>',
        '<defs><marker id="head" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#555"/></marker></defs>',
    ]
    for here, there in sorted(arrows()):
        (x1, y1), (x2, y2) = top_of(here), bottom_of(there)
        path = f"M{x1} {y1} L{x2} {y2}"
        if (here, there) in BENDS:
            bx, by = middle(*BENDS[here, there])
            x1, y1 = x1 + (WIDTH // 2 if bx > x1 else -WIDTH // 2), y1 + HEIGHT // 2
            path = f"M{x1} {y1} Q{bx} {by} {x2} {y2}"
        lines.append(
            f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.5" '
            f'marker-end="url(#head)"/>'
        )
    for room, place in PLACES.items():
        x, y = middle(*place)
        lines += [
            f'<rect x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" '
            'rx="6" fill="#e8f0fa" stroke="#2a5a92"/>',
            f'<text x="{x}" y="{y + 6}" font-size="17" fill="#10243e">{room}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def middle(column, row):
    return round(WIDTH / 2 + column * ACROSS), HEIGHT // 2 + round(row * DOWN)


def top_of(room):
    x, y = middle(*PLACES[room])
    return x, y - HEIGHT // 2


def bottom_of(room):
    x, y = middle(*PLACES[room])
    return x, y + HEIGHT // 2


def rooms():
    """All rooms, in the order of tests/test_rooms.py."""
    return (PLAIN, *ROOMS[1:])


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
