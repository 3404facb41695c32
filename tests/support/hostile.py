"""Names that try to be markup; on a page they must be text."""

ALERT = "<script>alert(1)</script>"
CLASSES = [ALERT, "$cat$", "_dog", "犬 & Ж"]
ODD_FILE = "<img src=x onerror=alert({})>.png"
RUN = "<b onclick=alert(1)>"
