#include "runtime/load/svg.h"

#include <math.h>

enum { TICKS = 5 };

/* Told apart by people who do not see red and green too (Okabe and Ito's). */
static const char *const colors[RT_SVG_COLORS] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                  "#e69f00", "#56b4e9", "#8c8c00", "#555555"};

static void add_escaped(rt_bytes *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            rt_bytes_add_text(out, "&lt;");
        else if (*text == '>')
            rt_bytes_add_text(out, "&gt;");
        else if (*text == '&')
            rt_bytes_add_text(out, "&amp;");
        else if ((unsigned char)*text < ' ' || (unsigned char)*text > '~')
            rt_bytes_add_byte(out, '?');
        else
            rt_bytes_add_byte(out, *text);
    }
}

static void add_text(rt_bytes *out, double x, double y, const char *anchor, const char *more,
                     const char *text)
{
    rt_bytes_print(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more);
    add_escaped(out, text);
    rt_bytes_add_text(out, "</text>\n");
}

void rt_svg_begin(rt_bytes *out, double width, double height, const char *title)
{
    rt_bytes_print(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
        "fill=\"white\"/>\n",
        width, height, width, height);
    add_text(out, width / 2, 22, "middle", " font-size=\"15\"", title);
}

void rt_svg_end(rt_bytes *out)
{
    rt_bytes_add_text(out, "</svg>\n");
}

double rt_svg_round_up(double value)
{
    if (!(value > 0)) return 1;
    double power = pow(10, floor(log10(value))), digits = value / power;
    static const double round[] = {1, 1.5, 2, 2.5, 3, 4, 5, 6, 8};
    for (size_t i = 0; i < sizeof round / sizeof *round; i++)
        if (digits <= round[i] * (1 + 1e-9)) return power * round[i];
    return power * 10;
}

static double step_of(double value)
{
    double power = pow(10, floor(log10(value))), digits = value / power;
    return power * (digits <= 1 ? 1 : digits <= 2 ? 2 : digits <= 5 ? 5 : 10);
}

static double share_of(const rt_svg_axis *a, double value)
{
    double low = a->is_log ? log(a->from) : a->from, high = a->is_log ? log(a->to) : a->to;
    if (a->is_log && value <= a->from) return 0;
    double share = ((a->is_log ? log(value) : value) - low) / (high > low ? high - low : 1);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static double x_of(const rt_svg_panel *p, double x)
{
    return p->left + p->width * share_of(&p->x, x);
}
static double y_of(const rt_svg_panel *p, double y)
{
    return p->top + p->height * (1 - share_of(&p->y, y));
}

static void add_tick(rt_svg_panel *p, bool is_x, double value)
{
    char text[24];
    double x = x_of(p, value), y = y_of(p, value), right = p->left + p->width, bottom = p->top + p->height;
    snprintf(text, sizeof text, "%g", value);
    if (is_x) {
        rt_bytes_print(p->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x,
                       p->top, x, bottom);
        add_text(p->out, x, bottom + 15, "middle", "", text);
    } else {
        rt_bytes_print(p->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                       p->left, y, right, y);
        add_text(p->out, p->left - 6, y + 4, "end", "", text);
    }
}

/* Each power of ten, and 2 and 5 times it where there are few. */
static void add_log_ticks(rt_svg_panel *p, bool is_x)
{
    static const double steps[] = {1, 2, 5};
    const rt_svg_axis *a = is_x ? &p->x : &p->y;
    double first = floor(log10(a->from) + 1e-9), last = ceil(log10(a->to) - 1e-9);
    bool has_few = last - first <= 2;
    for (double e = first; e <= last; e++)
        for (int i = 0; i < (has_few ? 3 : 1); i++) {
            double value = steps[i] * pow(10, e);
            if (value >= a->from * (1 - 1e-9) && value <= a->to * (1 + 1e-9)) add_tick(p, is_x, value);
        }
}

static void add_ticks(rt_svg_panel *p, bool is_x)
{
    const rt_svg_axis *a = is_x ? &p->x : &p->y;
    double step = a->to > a->from ? step_of((a->to - a->from) / TICKS) : 1;
    if (a->is_log) {
        add_log_ticks(p, is_x);
        return;
    }
    for (int i = 0; a->from + i * step <= a->to * (1 + 1e-9); i++) add_tick(p, is_x, a->from + i * step);
}

void rt_svg_axes(rt_svg_panel *p)
{
    char turn[80];
    double middle = p->top + p->height / 2;
    add_ticks(p, true);
    add_ticks(p, false);
    rt_bytes_print(
        p->out,
        "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#444\"/>\n",
        p->left, p->top, p->width, p->height);
    add_text(p->out, p->left + p->width / 2, p->top - 8, "middle", " font-weight=\"bold\"", p->title);
    add_text(p->out, p->left + p->width / 2, p->top + p->height + 32, "middle", "", p->x.label);
    snprintf(turn, sizeof turn, " transform=\"rotate(-90 %.1f %.1f)\"", p->left - 48, middle);
    add_text(p->out, p->left - 48, middle, "middle", turn, p->y.label);
}

void rt_svg_dot(rt_svg_panel *p, double x, double y, uint32_t color)
{
    rt_bytes_print(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"1.8\" fill=\"%s\" fill-opacity=\"0.6\"/>\n",
                   x_of(p, x), y_of(p, y), colors[color % RT_SVG_COLORS]);
}

void rt_svg_line_begin(rt_svg_panel *p, uint32_t color)
{
    rt_bytes_print(p->out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" points=\"",
                   colors[color % RT_SVG_COLORS]);
}

void rt_svg_line_point(rt_svg_panel *p, double x, double y)
{
    rt_bytes_print(p->out, "%.1f,%.1f ", x_of(p, x), y_of(p, y));
}

void rt_svg_line_end(rt_svg_panel *p)
{
    rt_bytes_add_text(p->out, "\"/>\n");
}

void rt_svg_key(rt_svg_panel *p, const char *name, uint32_t color)
{
    double y = p->top + 16 + 16 * p->keys++;
    rt_bytes_print(p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"10\" fill=\"%s\"/>\n",
                   p->left + 8, y - 9, colors[color % RT_SVG_COLORS]);
    add_text(p->out, p->left + 23, y, "start", " stroke=\"white\" stroke-width=\"3\" paint-order=\"stroke\"",
             name);
}
