"""Templates, and figures within them: nothing that a page shows is fetched."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent


def drawn(names: Iterable[str], folder: Path) -> dict[str, str]:
    """The figures that apply, of what lies in a page's folder: saved there, and as inline SVG by name."""
    import matplotlib.pyplot as plt

    from plots.__main__ import draw, save

    out = {}
    for name in names:
        figure = draw(name, folder)
        if figure is not None:
            save(figure, folder / name)
            out[name] = inline_svg(figure, name)
            plt.close(figure)  # pyplot would keep it, and a process draws many
    return out


def template(name: str) -> jinja2.Template:
    """A page without its content."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return made.get_template(name)


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as inline SVG, its ids made its own so that several can share a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1) if "width=" in svg[:400] else svg
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
