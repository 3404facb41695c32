"""The report of a run: one self-contained HTML page. ``page.write`` makes it; light to import, so nothing is here."""
