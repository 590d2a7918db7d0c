"""The frame of an HTML page that stands on its own: its look, and a policy under which it cannot reach any network."""

from __future__ import annotations

import html

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --text: #1c2330; --soft: #667085; --line: #e3e6eb; --warn: #9a5b00; --warn-page: #fff4de;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151a; --card: #1b1f26; --text: #e6e9ee; --soft: #98a1b0; --line: #2c323c; --warn: #f2c46d; --warn-page: #33290f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 2px; }
p { margin: 0 0 8px; color: var(--soft); overflow-wrap: anywhere; }
.notice { background: var(--warn-page); color: var(--warn); border-radius: 10px; padding: 10px 14px; margin-top: 16px; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 12px; margin: 20px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; min-width: 0; }
.tile b { display: block; font-size: 25px; line-height: 1.25; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13px; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
.wide { grid-column: 1 / -1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
.total td { font-weight: 650; }
.number { text-align: right; white-space: nowrap; }
.name { overflow-wrap: break-word; }
td.name:last-child { overflow-wrap: anywhere; min-width: 9em; }
pre {
  margin: 8px 0 0; padding: 12px 14px; background: var(--page); border-radius: 8px; overflow: auto; max-height: 520px;
  font: 13px/1.5 ui-monospace, Consolas, monospace;
}
summary { cursor: pointer; font-weight: 600; margin-top: 12px; }
@media (max-width: 760px) {
  main { padding: 18px 12px 40px; }
  h1 { font-size: 21px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .tile b { font-size: 21px; }
  .cards { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  .card { padding: 12px; }
  th, td { padding-right: 10px; }
}
"""
# The page needs its own scripts and styles and nothing else, so the browser is told to load nothing from anywhere.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, script: str, body: str) -> str:
    """Return a page with its script inlined; `title` is text, `body` is HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fedapt">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<script>{script}</script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
