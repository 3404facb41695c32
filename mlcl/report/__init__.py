"""The report of a run as one HTML page (``page.write``), and the same findings for loggers (``views.views``)."""
