#include "runtime/model/rope_table.h"

#include <math.h>

/* Long waves are slowed by `factor`, short ones kept, those between blended. */
static float llama3_frequency(const rt_model_config *c, float frequency)
{
    double original = c->rope_original_positions;
    float low_wave = (float)(original / c->rope_low_freq_factor);
    float high_wave = (float)(original / c->rope_high_freq_factor);
    float wave = 1.0f / frequency * (float)(2 * M_PI);
    if (wave > low_wave) return frequency / (float)c->rope_factor;
    if (wave < high_wave) return frequency;
    float smooth = (1.0f / wave * (float)original - (float)c->rope_low_freq_factor) /
                   (float)(c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1.0f - smooth) * frequency / (float)c->rope_factor + smooth * frequency;
}

void rt__rope_frequencies(const rt_model_config *c, const float *factors, float *inv_freq)
{
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)c->head_dim;
        /* The reference's power is the float32 of base and exponent, correctly rounded but for a few. */
        float f = 1.0f / (float)pow((float)c->rope_theta, exponent);
        if (c->rope_kind == RT_ROPE_LINEAR) f /= (float)c->rope_factor;
        if (c->rope_kind == RT_ROPE_LLAMA3) f = llama3_frequency(c, f);
        if (c->rope_kind == RT_ROPE_FACTORS) f /= factors[i];
        inv_freq[i] = f;
    }
}

void rt__rope_rows(const float *inv_freq, uint32_t half, uint32_t first, uint32_t rows, float *cos_out,
                   float *sin_out)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < half; i++) {
            double angle = (float)(first + r) * inv_freq[i];
            cos_out[(size_t)r * half + i] = (float)cos(angle);
            sin_out[(size_t)r * half + i] = (float)sin(angle);
        }
}
