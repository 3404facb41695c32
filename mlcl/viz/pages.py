"""Self-contained HTML pages: templates, and figures and pictures as inline data; nothing is fetched from anywhere."""

import base64
import io
import math
import re
import secrets
import warnings
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_INK = re.compile(r"#000000\b")  # black becomes the page's text colour, which differs between light and dark
_FONT = re.compile(r"(font-family: |font: [^;]*?px )[^;]*")  # matplotlib writes one or the other
_FORBIDDEN = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")


def render(template: str, **values: Any) -> str:
    """Fill a template of ``mlcl/viz/templates``; every value is escaped unless it is ``Markup``."""
    # Only the page's own scripts carry the nonce: one that slipped into the page as data would not run.
    return clean(_TEMPLATES.get_template(template).render(nonce=secrets.token_urlsafe(12), **values))


def clean(text: str) -> str:
    """What no page, and no file in UTF-8, may hold (control characters, half surrogates) as the replacement sign."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def save(figure: Figure, file: Any, **settings: Any) -> None:
    """``figure.savefig``, its texts cleaned, and nothing in them taken as mathematics."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(clean(text.get_text()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a browser has other fonts; a PNG shows a box
        figure.savefig(file, **settings)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent without the sign, ``0.4213`` as ``42.1``; nothing known (None, NaN) as an empty text."""
    return decimal(None if value is None else 100 * value, digits)


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with so many digits after the point; nothing known (None, NaN) as an empty text."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


_TEMPLATES = Environment(
    loader=PackageLoader("mlcl.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters |= {"percent": percent, "decimal": decimal}


def svg(figure: Figure, alt: str) -> Markup:
    """A figure as inline ``<svg role="img">`` that takes its text colour, font and width from the page.

    Black lines and texts become ``currentColor`` and backgrounds transparent: use black (with alpha for grey) for what
    must be readable in light and dark mode, and mid-tones for the rest. A ``gid`` with a hyphen (``class-3``) becomes
    the attribute ``data-gid`` of its group, for scripts. A log axis needs a plain tick formatter. The description
    ``alt`` must differ between the figures of a page, whose ids derive from it.
    """
    alt, file, none = clean(alt), io.BytesIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        save(figure, file, format="svg", transparent=True, metadata=none)
    root = ElementTree.fromstring(file.getvalue())
    _strip(root)
    width = float(root.attrib["width"].removesuffix("pt"))
    root.attrib = {"class": "plot", "role": "img", "aria-label": alt, "viewBox": root.attrib["viewBox"]}
    root.attrib["style"] = f"max-width: {width * 4 / 3:.0f}px"
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # all texts escaped by ElementTree


def _strip(root: ElementTree.Element) -> None:
    """In place: without namespaces, style sheet and unused ids; with the page's colour and font."""
    for parent in [*root.iter()]:
        for child in parent.findall(f"{_SVG}style"):
            parent.remove(child)
    used = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", ElementTree.tostring(root, encoding="unicode")))
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        if (name := node.attrib.get("id", "")) not in used:
            node.attrib.pop("id", None)
            if "-" in name:  # a gid; matplotlib's own ids look like axes_1
                node.attrib["data-gid"] = name
        if link := node.attrib.pop(_LINK, ""):
            node.attrib["href"] = link
        for key in {"style", "fill", "stroke"} & node.attrib.keys():
            node.attrib[key] = _FONT.sub(r"\1system-ui, sans-serif", _INK.sub("currentColor", node.attrib[key]))


def inline(picture: Image.Image, kind: str) -> str:
    """A picture as a ``data:`` address for ``<img src>``, of kind ``jpeg`` or ``png`` (which keeps transparency)."""
    file = io.BytesIO()
    picture.save(file, kind, quality=75, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
