/* runtime/load/svg.h - panels with axes, lines and dots, as an SVG text.
 *
 * Memory   drawn into the caller's bytes; errors are memory only, told by rt_bytes.failed.
 */
#ifndef RUNTIME_LOAD_SVG_H
#define RUNTIME_LOAD_SVG_H

#include <stdint.h>

#include "runtime/base/bytes.h"

typedef struct rt_svg_axis {
    double from, to; /* a logarithmic one's are above 0 */
    bool is_log;
    const char *label;
} rt_svg_axis;

typedef struct rt_svg_panel {
    rt_bytes *out;
    double left, top, width, height; /* of the plotting area, in pixels */
    rt_svg_axis x, y;
    const char *title;
    uint32_t keys; /* of the legend, so far */
} rt_svg_panel;

enum { RT_SVG_COLORS = 8 };

void rt_svg_begin(rt_bytes *out, double width, double height, const char *title);
void rt_svg_end(rt_bytes *out);
/* Frame, grid, numbers, title. */
void rt_svg_axes(rt_svg_panel *p);
/* Points outside the axes are drawn on their edge. */
void rt_svg_dot(rt_svg_panel *p, double x, double y, uint32_t color);
/* A line: begin, its points in order, end. */
void rt_svg_line_begin(rt_svg_panel *p, uint32_t color);
void rt_svg_line_point(rt_svg_panel *p, double x, double y);
void rt_svg_line_end(rt_svg_panel *p);
/* One more name in the panel's upper left corner. */
void rt_svg_key(rt_svg_panel *p, const char *name, uint32_t color);
/* A round number of at least `value`, where an axis from 0 may end. */
double rt_svg_round_up(double value);

#endif
