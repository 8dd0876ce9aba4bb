"""The table and the plot that results make."""
import html

import peer_cases
from peer_cases import CASES, ENGINES, NOT_OFFERED

COLOURS = {"mica": "#0b6e4f", "vllm": "#c8553d", "llama": "#e0a458"}
LIMIT_COLOUR, TEXT_COLOUR = "#222222", "#333333"


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(engine, case, summaries):
    if (engine, case.name) in NOT_OFFERED:
        return f"not offered: {NOT_OFFERED[engine, case.name]}"
    s = summaries.get((engine, case.name))
    if not s:
        return "not measured"
    spread = f" ({number(s.least)} to {number(s.most)})" if s.count > 1 else " (once)"
    share = "" if case.name == "memory" else f", {100 * s.share:.0f} %"
    return f"{number(s.median)}{spread}{share}"


def limit_cell(case, summaries):
    found = [s.limit for (_, name), s in summaries.items() if name == case.name]
    return number(sorted(found)[len(found) // 2]) if found else ""


def markdown(records, what):
    """what: one line on machine, shape, date and versions."""
    summaries = peer_cases.summarise(records)
    lines = [what, "", "| | " + " | ".join(ENGINES.values()) + " | limit |", "| --- |" + " --- |" * (len(ENGINES) + 1)]
    for case in CASES:
        cells = [cell(e, case, summaries) for e in ENGINES]
        lines.append(f"| {case.title}, {case.unit} | " + " | ".join(cells) + f" | {limit_cell(case, summaries)} |")
    return "\n".join(lines) + "\n"


# One panel a case, two in a row: bars as shares of the limit measured just before, which is the line at 100 %.
PANEL_WIDTH, PANEL_HEIGHT, MARGIN, LABELS, BAR, GAP = 460, 118, 16, 84, 20, 6
SHARES_SHOWN = 1.15                     # what the panel's width stands for; more than the limit is possible


def text(x, y, words, size=12, more=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{TEXT_COLOUR}" {more}>{html.escape(words)}</text>'


def panel(case, x, y, summaries):
    width = PANEL_WIDTH - LABELS - MARGIN
    parts = [text(x, y + 14, f"{case.title}, {case.unit}", 13, 'font-weight="bold"')]
    for i, (engine, title) in enumerate(ENGINES.items()):
        top = y + 26 + i * (BAR + GAP)
        parts.append(text(x, top + 15, title))
        s = summaries.get((engine, case.name))
        if not s:
            why = "not offered" if (engine, case.name) in NOT_OFFERED else "not measured"
            parts.append(text(x + LABELS + 4, top + 15, why, 12, 'font-style="italic"'))
            continue
        long = max(1.0, width * min(s.share, SHARES_SHOWN) / SHARES_SHOWN)
        parts.append(f'<rect x="{x + LABELS}" y="{top}" width="{long:.1f}" height="{BAR}" fill="{COLOURS[engine]}"/>')
        told = f"{number(s.median)}  {100 * s.share:.0f} %"
        inside = long > width / 2
        parts.append(text(x + LABELS + long + (-6 if inside else 6), top + 15, told, 12,
                          'text-anchor="end" style="fill:#fff"' if inside else ""))
    line = x + LABELS + width / SHARES_SHOWN
    bottom = y + 26 + len(ENGINES) * (BAR + GAP)
    parts.append(f'<line x1="{line:.1f}" y1="{y + 22}" x2="{line:.1f}" y2="{bottom}" stroke="{LIMIT_COLOUR}" '
                 'stroke-width="1.5" stroke-dasharray="4 3"/>')
    return parts


def svg(records, what):
    summaries = peer_cases.summarise(records)
    rows = (len(CASES) + 1) // 2
    width, height = 2 * PANEL_WIDTH + MARGIN, rows * PANEL_HEIGHT + 60
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
             f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
             text(MARGIN, 20, what, 12),
             text(MARGIN, 38, "Longer is better everywhere: bars are shares of what this machine's limits, measured "
                              "just "
                  "before, allow (the dashed line).", 12)]
    for i, case in enumerate(CASES):
        parts += panel(case, MARGIN + i % 2 * PANEL_WIDTH, 52 + i // 2 * PANEL_HEIGHT, summaries)
    return "\n".join([*parts, "</svg>"]) + "\n"
