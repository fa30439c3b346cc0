"""matplotlib's SVG made part of a page: colours by style sheet, no fixed size, no identifier twice, no comments."""

import hashlib
import io
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["page_svg"]

_SVG = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"
_DROPPED = frozenset({f"{{{_SVG}}}metadata", f"{{{_SVG}}}title"})
_PLACEHOLDER = re.compile(r"#00000([0-6])\b")
_REFERENCE = re.compile(r"(url\(#|^#)")


def page_svg(figure: "Figure", *, prefix: str) -> str:
    """Returns the drawing as an SVG element for inlining in HTML.

    The colours ``#000000`` to ``#000006`` become ``var(--plot-0)`` to ``var(--plot-6)``, which the page defines for
    light and for dark. ``prefix`` keeps the identifiers of several drawings apart.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())
    _adapt(root, "s" + hashlib.blake2s(prefix.encode()).hexdigest()[:8])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, prefix: str) -> None:
    for child in list(element):
        if child.tag in _DROPPED:
            element.remove(child)
        else:
            _adapt(child, prefix)
    if element.tag == f"{{{_SVG}}}g":
        element.attrib.pop("id", None)
    for name, value in element.attrib.items():
        own = f"{prefix}{value}" if name == "id" else _REFERENCE.sub(rf"\g<1>{prefix}", value)
        element.set(name, _PLACEHOLDER.sub(r"var(--plot-\1)", own))
    if element.tag == f"{{{_SVG}}}text":
        element.set("style", re.sub(r"\bfont(-[a-z]+)?:[^;]*;?", "", element.get("style", "")))
        element.set("class", "tick")
