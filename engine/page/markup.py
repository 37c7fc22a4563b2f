"""HTML and SVG that cannot be injected into: text is escaped unless it came from here."""

from html import escape

VOID = ("meta", "img", "br", "path", "rect", "line", "circle")


class Html(str):
    """Markup made by `element`; any other str is text."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """`class_` is class, `http_equiv` is http-equiv; an attribute that is None is left out."""
    inside = "".join(f" {_attribute(k, v)}" for k, v in attributes.items() if v is not None)
    if name in VOID and not children:
        return Html(f"<{name}{inside}/>")
    return Html(f"<{name}{inside}>{joined(*children)}</{name}>")


def joined(*children: object) -> Html:
    return Html("".join(child if isinstance(child, Html) else _text(child) for child in children))


def _attribute(name: str, value: object) -> str:
    return f'{name.rstrip("_").replace("_", "-")}="{_text(value)}"'


def _text(value: object) -> str:
    return escape(str(value), quote=True)
