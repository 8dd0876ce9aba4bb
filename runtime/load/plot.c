/* Four panels: first tokens over time, how latencies are spread, requests in flight, tokens a second. */
#include <math.h>

#include "runtime/load/group.h"
#include "runtime/load/svg.h"

enum { DOTS_MAX = 4000, POINTS = 200, SLICES = 100, WIDTH = 1080, HEIGHT = 760 };

typedef struct plot {
    const rt_load *l;
    rt_load_group all;
    rt_bytes *out;
    double seconds;
} plot;

/* Of four, in reading order. */
static rt_svg_panel panel_at(const plot *p, int place, const char *title, rt_svg_axis x, rt_svg_axis y)
{
    return (rt_svg_panel){.out = p->out,
                          .left = place % 2 ? 620 : 80,
                          .top = place / 2 ? 440 : 76,
                          .width = 420,
                          .height = 256,
                          .x = x,
                          .y = y,
                          .title = title};
}

static rt_svg_axis time_axis(const plot *p)
{
    return (rt_svg_axis){0, rt_svg_round_up(p->seconds), false, "seconds"};
}

/* From the power of ten below the least to the one above the greatest. */
static rt_svg_axis latency_axis(double least, double greatest)
{
    double from = pow(10, floor(log10(least > 1e-2 ? least : 1e-2)));
    double to = pow(10, ceil(log10(greatest > from ? greatest : from)));
    return (rt_svg_axis){from, to > from ? to : from * 10, true, "ms"};
}

static void plot_first_tokens(plot *p)
{
    const rt_load *l = p->l;
    rt_samples *ttft = &p->all.ms[RT_LOAD_TTFT];
    rt_svg_panel panel =
        panel_at(p, 0, "time to the first token, by when it was sent", time_axis(p),
                 latency_axis(rt_samples_percentile(ttft, 0), rt_samples_percentile(ttft, 100)));
    const rt_load_mix *loras = l->o->loras;
    size_t stride = l->count / DOTS_MAX + 1;
    rt_svg_axes(&panel);
    for (size_t i = 0; i < l->count; i += stride) {
        const rt_load_record *r = &l->records[i];
        if (r->end != RT_LOAD_DONE) continue;
        rt_svg_dot(&panel, (double)r->sent_ns / 1e9, (double)(r->first_ns - r->sent_ns) / 1e6, r->lora);
    }
    for (uint32_t i = 0; i < loras->count && i < RT_SVG_COLORS; i++)
        rt_svg_key(&panel,
                   loras->count > RT_SVG_COLORS && i == RT_SVG_COLORS - 1 ? "..." : loras->choices[i].name,
                   i);
}

static void plot_spread(plot *p)
{
    static const rt_load_metric shown[] = {RT_LOAD_TTFT, RT_LOAD_ITL, RT_LOAD_E2EL};
    static const char *const names[] = {"first token (ttft)", "between tokens (itl)", "whole answer (e2el)"};
    double least = INFINITY, greatest = 0;
    for (int i = 0; i < 3; i++) {
        rt_samples *s = &p->all.ms[shown[i]];
        if (!rt_samples_count(s)) continue;
        least = fmin(least, rt_samples_percentile(s, 1));
        greatest = fmax(greatest, rt_samples_percentile(s, 100));
    }
    rt_svg_panel panel =
        panel_at(p, 1, "share that is no slower", latency_axis(fmin(least, greatest), greatest),
                 (rt_svg_axis){0, 100, false, "%"});
    rt_svg_axes(&panel);
    for (uint32_t i = 0; i < 3; i++) {
        rt_samples *s = &p->all.ms[shown[i]];
        if (!rt_samples_count(s)) continue;
        rt_svg_line_begin(&panel, i);
        for (int k = 0; k <= POINTS; k++)
            rt_svg_line_point(&panel, rt_samples_percentile(s, 100.0 * k / POINTS), 100.0 * k / POINTS);
        rt_svg_line_end(&panel);
        rt_svg_key(&panel, names[i], i);
    }
}

/* The part of a slice of time, 0 to 1, that lies between two moments. */
static double overlap(double from, double to, double slice_from, double slice_s)
{
    double low = fmax(from, slice_from), high = fmin(to, slice_from + slice_s);
    return high > low ? (high - low) / slice_s : 0;
}

static void add_spans(const plot *p, double slices[SLICES])
{
    double slice_s = p->seconds / SLICES;
    for (size_t i = 0; i < p->l->count; i++) {
        const rt_load_record *r = &p->l->records[i];
        double from = (double)r->sent_ns / 1e9, to = (double)r->ended_ns / 1e9;
        if (r->end == RT_LOAD_UNSENT) continue;
        for (int k = (int)(from / slice_s); k < SLICES && k * slice_s < to; k++)
            slices[k] += overlap(from, to, k * slice_s, slice_s);
    }
}

static void add_tokens(const plot *p, double slices[SLICES])
{
    double slice_s = p->seconds / SLICES;
    for (size_t i = 0; i < p->l->count; i++) {
        const rt_load_record *r = &p->l->records[i];
        size_t count;
        const float *gaps = rt_load_record_gaps(r, &count);
        double at = (double)r->first_ns / 1e9;
        for (size_t k = 0; k <= count && r->output_tokens; k++) {
            int slice = (int)(at / slice_s);
            slices[slice < SLICES ? slice : SLICES - 1] += 1 / slice_s;
            if (k < count) at += gaps[k] / 1e3;
        }
    }
}

static void plot_slices(plot *p, int place, const char *title, const char *unit, const double slices[SLICES])
{
    double greatest = 0;
    for (int i = 0; i < SLICES; i++) greatest = fmax(greatest, slices[i]);
    rt_svg_panel panel =
        panel_at(p, place, title, time_axis(p), (rt_svg_axis){0, rt_svg_round_up(greatest), false, unit});
    rt_svg_axes(&panel);
    rt_svg_line_begin(&panel, 0);
    for (int i = 0; i < SLICES; i++) rt_svg_line_point(&panel, (i + 0.5) * p->seconds / SLICES, slices[i]);
    rt_svg_line_end(&panel);
}

static void plot_all(plot *p)
{
    char title[RT_LOAD_TEXT_MAX + 120];
    double in_flight[SLICES] = {0}, tokens[SLICES] = {0};
    snprintf(title, sizeof title, "%s: %zu completed, %zu failed in %.1f s", p->l->model, p->all.done,
             p->all.failed, p->seconds);
    rt_svg_begin(p->out, WIDTH, HEIGHT, title);
    plot_first_tokens(p);
    plot_spread(p);
    add_spans(p, in_flight);
    plot_slices(p, 2, "requests in flight", "requests", in_flight);
    add_tokens(p, tokens);
    plot_slices(p, 3, "output tokens a second", "tokens/s", tokens);
    rt_svg_end(p->out);
}

rc_code rt_load_plot(const rt_load *l, rt_bytes *out, rc_msg *msg)
{
    plot p = {
        .l = l, .out = out, .seconds = (double)(l->duration_ns > 1000000 ? l->duration_ns : 1000000) / 1e9};
    rc_code code = rt_load_group_of(l, RT_LOAD_ANY, RT_LOAD_ANY, &p.all, msg);
    if (code == RC_OK) plot_all(&p);
    rt_load_group_deinit(&p.all);
    if (code == RC_OK && out->failed) code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the plot");
    return code;
}
