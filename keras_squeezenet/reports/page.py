"""One skeleton for all pages: headline numbers, then the page's sections, one after the other.

A page is a list of `PageSection`s, and a section has figures and a body. Another section, or
another figure in one, is one entry in that list: it is then drawn, shown and described.
"""

import base64
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from keras_squeezenet.files import replacing
from keras_squeezenet.numerals import byte_size, percent
from keras_squeezenet.reports.figures import CSS_PIXELS_PER_INCH, DPI

# What is inlined must be readable in a browser; ours are far smaller.
MAX_PICTURE_BYTES = 32_000_000


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, `width` CSS pixels wide."""

    source: str
    width: int


@dataclass(frozen=True)
class PageFigure:
    """A picture of what a page is about.

    Attributes:
        name: of its file, without .png.
        alt: what it shows, for those who do not see it.
        draw: called with what the page is about and the path of the PNG to write.
        applies: called with what the page is about: whether there is anything to draw.
        dpi: dots to the inch that it is drawn with.
    """

    name: str
    alt: str
    draw: Callable[[Any, Path], Any]
    applies: Callable[[Any], Any] = lambda about: True
    dpi: int = DPI


@dataclass(frozen=True)
class PageSection:
    """A part of a page.

    Attributes:
        id: of the element, to link to.
        title: its heading; or a function of the page's values that gives it.
        figures: shown below the title, each where its picture is there.
        body: name of the template of what stands below them, in templates/sections.
        needs: names of the page's values. A section is left out where all of them are empty and
            none of its pictures is there; one with neither is always shown.
    """

    id: str
    title: str | Callable[[Mapping[str, Any]], str]
    figures: tuple[PageFigure, ...] = ()
    body: str | None = None
    needs: tuple[str, ...] = ()

    def is_shown(self, values: Mapping[str, Any]) -> bool:
        wanted = [figure.name in values["pictures"] for figure in self.figures]
        wanted += [bool(values[name]) for name in self.needs]
        return any(wanted) or not wanted

    def heading(self, values: Mapping[str, Any]) -> str:
        return self.title if isinstance(self.title, str) else self.title(values)


WARNINGS = PageSection("warnings", "Warnings", body="warnings", needs=("warnings",))
RUN = PageSection(
    "run", "How to run it again", body="run", needs=("facts", "command", "recipe", "versions")
)


def figures_of(sections: Sequence[PageSection]) -> Iterator[PageFigure]:
    return (figure for section in sections for figure in section.figures)


def draw_figures(sections: Sequence[PageSection], about: Any, folder: str | Path) -> list[Path]:
    """Draw the figures of a page's sections into a folder, as NAME.png.

    Args:
        about: what the page is about, for the figures' functions.

    Returns:
        The paths of those that there was something to draw for.
    """
    paths = []
    for figure in figures_of(sections):
        if figure.applies(about):
            paths.append(Path(folder) / f"{figure.name}.png")
            figure.draw(about, paths[-1])
    return paths


def read_pictures(
    sections: Sequence[PageSection], paths: Iterable[Path]
) -> tuple[dict[str, Picture], list[str]]:
    """Those of `paths` that are pictures of the sections' figures.

    Returns:
        The pictures by name, and a sentence for each that cannot be shown.
    """
    pictures, refused = {}, []
    drawn = {path.name: path for path in paths}
    for figure in figures_of(sections):
        path = drawn.get(f"{figure.name}.png")
        if path:
            try:
                pictures[figure.name] = read_picture(path, figure.dpi)
            except ValueError as error:
                refused.append(str(error))
    return pictures, refused


def read_picture(path: Path, dpi: int) -> Picture:
    """A PNG that was drawn with `dpi` dots to the inch, for a page.

    Raises:
        ValueError: one sentence: it is no PNG, or too large.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_PICTURE_BYTES + 1)
    if len(content) > MAX_PICTURE_BYTES:
        raise ValueError(
            f"{path.name} was left out: it is larger than {byte_size(MAX_PICTURE_BYTES)}."
        )
    # The signature, then IHDR with the width (PNG specification, sections 5.2 and 11.2.1).
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 33:
        raise ValueError(f"{path.name} was left out: it is not a PNG.")
    (width,) = struct.unpack_from(">I", content, 16)
    return Picture(
        source="data:image/png;base64," + base64.b64encode(content).decode("ascii"),
        width=width * CSS_PIXELS_PER_INCH // dpi,
    )


def write_page(
    path: str | Path,
    sections: Sequence[PageSection],
    *,
    title: str,
    pictures: Mapping[str, Picture],
    cards: Sequence[Card] = (),
    **values: Any,
) -> Path:
    """Write a page: one file that opens offline. All values are shown as text, not as HTML.

    Args:
        path: of the page.
        sections: in their order.
        title: of the page.
        pictures: by the names of the figures.
        cards: headline numbers.
        **values: what the sections' bodies show, by the names that they use.

    Returns:
        `path`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_squeezenet.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    values = {**values, "title": title, "pictures": pictures, "cards": cards}
    shown = [(section, section.heading(values)) for section in sections if section.is_shown(values)]
    page = environment.get_template("page.html.jinja").render(**values, sections=shown)
    path = Path(path)
    with replacing(path) as temporary:
        # "replace": a file name that is not UTF-8 reaches us with lone surrogates.
        temporary.write_text(page, "utf-8", errors="replace")
    return path
