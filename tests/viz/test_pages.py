"""Pages: everything escaped, figures inline without ids that clash, addresses or colours of their own."""

import base64
import io
import re
import warnings

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mlcl.viz import pages

HOSTILE = '<script>alert(1)</script> "$x$ & 犬'


def figure(gid="class-3"):
    made = Figure(figsize=(4, 3), layout="constrained")
    axes = made.add_subplot()
    axes.set_title(HOSTILE)
    axes.plot([0, 1], [0, 1], "o", gid=gid)
    axes.set_clip_on(True)
    return made


def test_a_figure_is_inline_and_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no word on glyphs: the browser has other fonts
        text = pages.svg(figure(), f"Title: {HOSTILE}")
    assert text.startswith('<svg class="plot" role="img" aria-label="Title: &lt;script&gt;')
    assert "<script" not in text
    assert '&lt;script&gt;alert(1)&lt;/script&gt; "$x$ &amp; 犬</text>' in text  # text, neither markup nor mathematics
    assert "http" not in text
    assert "<style" not in text
    assert "<metadata" not in text
    assert "#000000" not in text
    assert "currentColor" in text
    assert 'data-gid="class-3"' in text
    assert re.search(r'viewBox="0 0 288 216" style="max-width: 384px"', text)


def test_ids_differ_between_figures_and_every_reference_is_met():
    first, second = pages.svg(figure(), "one"), pages.svg(figure(), "two")
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, known in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= known
    assert pages.svg(figure(), "one") == first  # and nothing else in them changes


def test_a_page_escapes_values_and_forbids_requests(monkeypatch):
    from jinja2 import DictLoader, Environment, UndefinedError

    child = (
        "{% extends 'base.html' %}{% block title %}{{ x }}{% endblock %}{% block main %}<p>{{ x }}</p>{% endblock %}"
    )
    real = pages._TEMPLATES
    loader = DictLoader({"base.html": real.loader.get_source(real, "base.html")[0], "child.html": child})
    made = Environment(loader=loader, autoescape=True, undefined=real.undefined)
    monkeypatch.setattr(pages, "_TEMPLATES", made)
    text = pages.render("child.html", x=HOSTILE)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "default-src 'none'; img-src data:" in text
    assert "://" not in text
    with pytest.raises(UndefinedError, match="x"):
        pages.render("child.html")


@pytest.mark.parametrize(("value", "text"), [(0.42129, "42.1"), (0, "0.0"), (None, ""), (float("nan"), "")])
def test_percent(value, text):
    assert pages.percent(value) == text


def test_pictures():
    for mode, kind in (("RGB", "jpeg"), ("RGBA", "png")):
        start, _, data = pages.inline(Image.new(mode, (4, 3), "red"), kind).partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert start == f"data:image/{kind};base64" and (picture.size, picture.mode) == ((4, 3), mode)
