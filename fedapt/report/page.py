"""The frame of an HTML page: its look, and a policy under which it runs its own scripts and cannot reach any network.

plotly.js is 4.8 MB (1.5 MB once compressed on the way). It is inlined, because a page with a script beside it breaks when it is
mailed or moved alone; only where many pages share one folder does the folder hold the script once.
"""

from __future__ import annotations

import hashlib
import os
from html import escape
from pathlib import Path

from fedapt.errors import SetupError
from fedapt.record.files import write_whole

SHARED = "plotly.min.js"
# A run lies in the folder of its cell or right in that of the bench.
LEVELS_ABOVE = 3
STYLE = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


def share_script(folder: Path) -> Path:
    """Write plotly.js into a folder, once for the pages of all runs below it; return its path.

    Raises SetupError if plotly is missing and DamagedData if the file cannot be written.
    """
    path = folder / SHARED
    script = plotly_script().encode()
    if not path.is_file() or path.read_bytes() != script:
        write_whole(path, script)
    return path


def shared_script(folder: Path) -> str | None:
    """Return how a page in `folder` names the script that a folder above holds for it; None if none has this plotly's."""
    script = plotly_script().encode()
    for above in list(folder.resolve().parents)[:LEVELS_ABOVE]:
        path = above / SHARED
        if path.is_file() and path.stat().st_size == len(script) and path.read_bytes() == script:
            return Path(os.path.relpath(path, folder.resolve())).as_posix()
    return None


def plotly_script() -> str:
    """Return plotly.js; raises SetupError if plotly is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise SetupError("the report needs plotly, which is not installed: `pip install 'fedapt[sim]'`") from None
    return str(get_plotlyjs())


def page(title: str, body: str, shared: str | None = None) -> str:
    """Return a page; `title` is text, `body` is HTML, `shared` the relative path of plotly.js, which is inlined without one."""
    # Scripts run if they carry the nonce: ours do, and none can that came with the text of a client, whose digest it is.
    nonce = hashlib.sha256(body.encode()).hexdigest()[:32]
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:"
    plotly = f'<script nonce="{nonce}">{plotly_script()}</script>' if shared is None else ""
    notice = "<noscript><div class='notice'>The plots are drawn by a script, which this browser does not run.</div></noscript>"
    if shared:
        plotly = f'<script nonce="{nonce}" src="{escape(shared)}"></script>'
        notice += (
            f"<div class='notice no-plots' hidden>The plots are missing because {escape(shared)}, which this page"
            " shares with others, is not there. Move the whole folder, or write a page that stands alone with"
            " <code>fedapt report</code>.</div>"
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fedapt">
<title>{escape(title)}</title>
<style>{STYLE.read_text(encoding="utf-8")}</style>
{plotly}
<script nonce="{nonce}">{SCRIPT.read_text(encoding="utf-8")}</script>
</head>
<body>
<main>
{notice}
{body}
</main>
</body>
</html>
"""
