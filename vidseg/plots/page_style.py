"""Style sheet of the HTML pages: light and dark, narrow windows, and print."""

from vidseg.plots.palette import DARK, LIGHT, Theme

__all__ = ["GRID_COLOR", "INK_COLOR", "MUTED_COLOR", "STYLE"]

INK_COLOR, MUTED_COLOR, GRID_COLOR = "var(--ink)", "var(--muted)", "var(--grid)"
"""Colors of figures that change with the color scheme; series and classes have the same colors in both."""


def _variables(theme: Theme, panel: str, warning: str) -> str:
    """Return the CSS variables of a theme, with the backgrounds of commands and warnings."""
    return (
        f"--ink: {theme.ink}; --muted: {theme.muted}; --grid: {theme.grid}; --surface: {theme.surface};"
        f" --panel: {panel}; --warning: {warning};"
    )


_LIGHT, _DARK = _variables(LIGHT, "#f1f0ec", "#fbe3d8"), _variables(DARK, "#232529", "#4a2a1c")

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--surface); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.2rem; border-top: 2px solid var(--ink); padding-top: .6rem;
  margin-top: 2.2rem; }} h3 {{ font-size: 1rem; margin: 1.4rem 0 .4rem; }}
p {{ margin: .3rem 0; }} .muted {{ color: var(--muted); }}
.warning {{ background: var(--warning); padding: .5rem .8rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; margin: 1rem 0; }}
.tiles b {{ display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.2; }}
.wide {{ overflow-x: auto; max-width: 100%; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15rem .7rem; text-align: right; font-weight: normal;
  font-variant-numeric: tabular-nums; }} th {{ color: var(--muted); }} td:first-child, th:first-child {{
  text-align: left; padding-left: 0; }} tr.sum td {{ border-top: 1px solid var(--ink); font-weight: 600; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }} .row > * {{ max-width: 100%; }}
svg.chart {{ max-width: 100%; height: auto; }}
.video {{ margin: .9rem 0; }} .video img {{ display: block; }}
.bars {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 .5rem; font-size: 11px; line-height: 20px; }}
.bars svg {{ display: block; width: 100%; height: 44px; }} .sides span {{ display: block; height: 20px; }}
.sides span + span {{ margin-top: 4px; }}
.ticks {{ grid-column: 2; position: relative; height: 18px; color: var(--muted); line-height: 14px; }}
.ticks span {{ position: absolute; transform: translateX(-50%); padding-top: 2px; }}
.ticks span:first-child {{ transform: none; }} .ticks span.unit {{ right: 0; transform: none; }}
img.figure {{ max-width: 100%; height: auto; border-radius: 4px; }}
.swatch {{ display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -1px; }}
.legend span.item {{ margin-right: 1.1rem; white-space: nowrap; }}
pre {{ background: var(--panel); padding: .6rem .8rem; overflow-x: auto; }}
@media (max-width: 480px) {{ body {{ margin: 1rem auto; padding: 0 .7rem; }} .tiles b {{ font-size: 1.35rem; }}
  td, th {{ padding: .15rem .35rem; }} svg.chart {{ font-size: 13px; }} h1 {{ font-size: 1.25rem; }} }}
@media print {{ :root {{ color-scheme: light; }} body {{ margin: 0; max-width: none; font-size: 10pt; }}
  body, html {{ background: white; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  .video, .tiles, tr, svg, img {{ break-inside: avoid; }} h2, h3 {{ break-after: avoid; }}
  .wide {{ overflow: visible; }} pre {{ white-space: pre-wrap; }} }}
"""
