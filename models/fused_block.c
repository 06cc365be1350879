/* Batch normalization, 2 × 2 max-pooling and ReLU in one pass over the memory, and its gradient.

   Layout: x [samples, rows, columns, channels] (channels_last), y [samples, rows/2, columns/2, channels]. A last odd row
   or column is in no window. Compiled for the machine that it runs on, by models/fused_block.py, which says what is what.

   Everything runs along the channels, so that one vector instruction handles several of them. No -ffast-math: a loss
   that is not a number has to stay one. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define CHUNK 64      /* rows of channels whose sums fit a float; chunks are added in double */
#define LANES 16      /* channels handled at once: a loop of fixed length becomes vector instructions and nothing else */
#define INACTIVE 4    /* choice of a window whose output is zero: no gradient goes through it */

#ifdef HALF
/* bfloat16 is the upper half of a float. Written to the nearest, ties to even; what is not a number stays one. */
typedef uint16_t value;
INLINE float load(value bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}
INLINE value store(float x)
{
    uint32_t wide;
    memcpy(&wide, &x, 4);
    uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    return (value)((wide & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
#else
typedef float value;
INLINE float load(value x) { return x; }
INLINE value store(float x) { return x; }
#endif

/* Runs BODY for the channels `first` … `first + lanes`, LANES at a time and then what is left of them. */
#define FOR_CHANNELS(BODY)                                           \
    for (int64_t first = 0; first < channels;) {                     \
        if (channels - first >= LANES) {                             \
            const int lanes = LANES;                                 \
            BODY;                                                    \
            first += LANES;                                          \
        } else {                                                     \
            const int lanes = (int)(channels - first);               \
            BODY;                                                    \
            first += lanes;                                          \
        }                                                            \
    }

/* Some channels of a chunk: each is read twice while it is in the cache, so no digits are lost, and is merged exactly
   with the chunks before (Chan, Golub, LeVeque). */
INLINE void chunk_statistics(const value *restrict x, int64_t before, int64_t rows, int64_t channels, int lanes,
                             double *restrict mean, double *restrict squares)
{
    float sum[LANES] = {0}, middle[LANES], deviation[LANES] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int c = 0; c < lanes; c++)
            sum[c] += load(x[r * channels + c]);
    for (int c = 0; c < lanes; c++)
        middle[c] = sum[c] / rows;
    for (int64_t r = 0; r < rows; r++)
        for (int c = 0; c < lanes; c++) {
            float d = load(x[r * channels + c]) - middle[c];
            deviation[c] += d * d;
        }
    double share = (double)rows / (before + rows);
    for (int c = 0; c < lanes; c++) {
        double shift = middle[c] - mean[c];
        squares[c] += deviation[c] + shift * shift * before * share;
        mean[c] += shift * share;
    }
}

/* Mean [channels] and sum of squared deviations from it [channels] over n rows of channels. */
void statistics(const value *restrict x, int64_t n, int64_t channels, double *restrict mean, double *restrict squares)
{
    for (int64_t c = 0; c < channels; c++)
        mean[c] = squares[c] = 0.0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int64_t rows = n - start < CHUNK ? n - start : CHUNK;
        FOR_CHANNELS(chunk_statistics(x + start * channels + first, start, rows, channels, lanes, mean + first,
                                      squares + first))
    }
}

INLINE void window(const value *restrict x, int64_t line, int64_t channels, int lanes, const float *restrict scale,
                   const float *restrict shift, value *restrict y, value *restrict selected, uint8_t *restrict choice)
{
    for (int c = 0; c < lanes; c++) {
        float x0 = load(x[c]), x1 = load(x[channels + c]);
        float x2 = load(x[line + c]), x3 = load(x[line + channels + c]);
        float best = x0 * scale[c], chosen = x0, other;
        int32_t which = 0;
        other = x1 * scale[c];
        which = other > best ? 1 : which, chosen = other > best ? x1 : chosen, best = other > best ? other : best;
        other = x2 * scale[c];
        which = other > best ? 2 : which, chosen = other > best ? x2 : chosen, best = other > best ? other : best;
        other = x3 * scale[c];
        which = other > best ? 3 : which, chosen = other > best ? x3 : chosen, best = other > best ? other : best;
        best += shift[c];
        y[c] = store(best < 0.0f ? 0.0f : best); /* not a number is not below zero */
        if (choice) {
            selected[c] = store(chosen);
            choice[c] = (uint8_t)(best > 0.0f ? which : INACTIVE);
        }
    }
}

/* y = relu(max over the window of scale · x, plus shift). With selected and choice (training): the x that was chosen
   and which of the four it is. */
void forward(const value *restrict x, int64_t samples, int64_t rows, int64_t columns, int64_t channels,
             const float *restrict scale, const float *restrict shift, value *restrict y, value *restrict selected,
             uint8_t *restrict choice)
{
    int64_t line = columns * channels, high = rows / 2, wide = columns / 2;
    for (int64_t s = 0; s < samples; s++)
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++) {
                const value *restrict at = x + (s * rows + 2 * i) * line + 2 * j * channels;
                int64_t out = ((s * high + i) * wide + j) * channels;
                if (choice) {
                    FOR_CHANNELS(window(at + first, line, channels, lanes, scale + first, shift + first,
                                        y + out + first, selected + out + first, choice + out + first))
                } else {
                    FOR_CHANNELS(window(at + first, line, channels, lanes, scale + first, shift + first,
                                        y + out + first, 0, 0))
                }
            }
}

INLINE void chunk_sums(const value *restrict g, const value *restrict selected, const uint8_t *restrict choice,
                       int64_t rows, int64_t channels, int lanes, const float *restrict mean, double *restrict sums,
                       double *restrict products)
{
    float sum[LANES] = {0}, product[LANES] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int c = 0; c < lanes; c++) {
            float all = load(g[r * channels + c]); /* loaded in any case: a condition would cost the vector loop */
            float active = choice[r * channels + c] == INACTIVE ? 0.0f : all;
            sum[c] += active;
            product[c] += active * (load(selected[r * channels + c]) - mean[c]);
        }
    for (int c = 0; c < lanes; c++) {
        sums[c] += sum[c];
        products[c] += product[c];
    }
}

/* Σ g [channels] and Σ g · (selected − mean) [channels] over the n windows that are active. */
void gradient_sums(const value *restrict g, const value *restrict selected, const uint8_t *restrict choice, int64_t n,
                   int64_t channels, const float *restrict mean, double *restrict sums, double *restrict products)
{
    for (int64_t c = 0; c < channels; c++)
        sums[c] = products[c] = 0.0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int64_t rows = n - start < CHUNK ? n - start : CHUNK, at = start * channels;
        FOR_CHANNELS(chunk_sums(g + at + first, selected + at + first, choice + at + first, rows, channels, lanes,
                                mean + first, sums + first, products + first))
    }
}

/* One of the four values of a window. */
INLINE void value_gradient(const value *restrict x, const value *restrict g, const uint8_t *restrict choice, int lanes,
                           int32_t which, const float *restrict scale, const float *restrict slope,
                           const float *restrict mean, const float *restrict offset, value *restrict dx)
{
    for (int c = 0; c < lanes; c++) {
        float through = load(g[c]) * scale[c];
        dx[c] = store((load(x[c]) - mean[c]) * slope[c] + offset[c] + (choice[c] == which ? through : 0.0f));
    }
}

INLINE void window_gradient(const value *restrict x, const value *restrict g, const uint8_t *restrict choice,
                            int64_t line, int64_t channels, int lanes, const float *restrict scale,
                            const float *restrict slope, const float *restrict mean, const float *restrict offset,
                            value *restrict dx)
{
    for (int32_t which = 0; which < 4; which++) {
        int64_t at = (which / 2) * line + (which % 2) * channels;
        value_gradient(x + at, g, choice, lanes, which, scale, slope, mean, offset, dx + at);
    }
}

/* dx = slope · (x − mean) + offset, and where x was chosen also scale · g. */
void backward(const value *restrict x, const value *restrict g, const uint8_t *restrict choice, int64_t samples,
              int64_t rows, int64_t columns, int64_t channels, const float *restrict scale, const float *restrict slope,
              const float *restrict mean, const float *restrict offset, value *restrict dx)
{
    int64_t line = columns * channels, high = rows / 2, wide = columns / 2;
    for (int64_t s = 0; s < samples; s++) {
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++) {
                int64_t in = (s * rows + 2 * i) * line + 2 * j * channels;
                int64_t out = ((s * high + i) * wide + j) * channels;
                FOR_CHANNELS(window_gradient(x + in + first, g + out + first, choice + out + first, line, channels,
                                             lanes, scale + first, slope + first, mean + first, offset + first,
                                             dx + in + first))
            }
        for (int64_t i = 0; i < rows; i++) /* in no window */
            for (int64_t j = i < 2 * high ? 2 * wide : 0; j < columns; j++) {
                int64_t in = (s * rows + i) * line + j * channels;
                for (int64_t c = 0; c < channels; c++)
                    dx[in + c] = store((load(x[in + c]) - mean[c]) * slope[c] + offset[c]);
            }
    }
}
