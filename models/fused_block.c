/* Batch normalization, 2 × 2 max-pooling and ReLU in one pass over the memory, and its gradient.

   Layout: x [samples, rows, columns, channels] (channels_last), y [samples, rows/2, columns/2, channels]. A last odd row
   or column is in no window. Compiled for the machine that it runs on, by models/fused_block.py, which says what is what
   and gives two numbers: LANES, the channels handled at once (a loop of fixed length becomes vector instructions and
   nothing else), and MOST_TAPS, those of the largest kernel of a first block.

   Everything runs along the channels, so that one vector instruction handles several of them. No -ffast-math: a loss
   that is not a number has to stay one. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define UNROLL _Pragma("GCC unroll 16") /* counts that are known: sums in registers */

#define CHUNK 64      /* rows of channels whose sums fit a float; chunks are added in double */
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
        int32_t which = 0, later;
        other = x1 * scale[c];
        later = other > best || other != other; /* what is not a number wins */
        which = later ? 1 : which, chosen = later ? x1 : chosen, best = later ? other : best;
        other = x2 * scale[c];
        later = other > best || other != other;
        which = later ? 2 : which, chosen = later ? x2 : chosen, best = later ? other : best;
        other = x3 * scale[c];
        later = other > best || other != other;
        which = later ? 3 : which, chosen = later ? x3 : chosen, best = later ? other : best;
        best += shift[c];
        y[c] = store(best < 0.0f ? 0.0f : best); /* not a number is not below zero */
        if (choice)
            choice[c] = (uint8_t)(best > 0.0f ? which : INACTIVE);
        if (selected)
            selected[c] = store(chosen);
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

/* The first block, whose convolution has one plane as its input, together with that convolution.

   Its output is the largest array of a network and its input a small one, so that what is needed of the output is
   computed from the input again instead of being kept. Here x is [samples, rows, columns], already with its margin of
   zeros; a kernel of high × wide taps fits into it at rows − high + 1 by columns − wide + 1 places. */

#define TOGETHER 4  /* windows of a row whose sums are in registers at the same time */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

#ifdef HALF
static void store_vector(value *restrict to, vector x)
{
    for (int c = 0; c < LANES; c++)
        to[c] = store(x[c]);
}
#else
INLINE void store_vector(value *restrict to, vector x) { memcpy(to, &x, sizeof x); }
#endif

/* Σ over all places of what each tap sees: sums [taps]; and of what two taps see: products [taps, taps].

   Two taps see the same products as any two with the same distance, at places that are moved by a few rows and columns.
   So for each distance the products are made once, and the sums for the moved places come from the sum for the places
   before them. rows_of: rows · wide numbers to work with. */
void first_moments(const float *restrict x, int64_t samples, int64_t rows, int64_t columns, int64_t high, int64_t wide,
                   double *restrict sums, double *restrict products, double *restrict rows_of)
{
    int64_t tall = rows - high + 1, broad = columns - wide + 1, taps = high * wide;
    memset(sums, 0, sizeof(double) * taps);
    memset(products, 0, sizeof(double) * taps * taps);
    for (int64_t s = 0; s < samples; s++, x += rows * columns)
        for (int64_t down = -1; down < high; down++) /* −1: of x alone */
            for (int64_t right = down > 0 ? 1 - wide : 0; right < (down < 0 ? 1 : wide); right++) {
                int64_t begin = right < 0 ? -right : 0, end = right > 0 ? wide - right : wide;
                int64_t last = down > 0 ? rows - down : rows, places = down > 0 ? high - down : high;
                for (int64_t u = 0; u < last; u++) {
                    const float *restrict p = x + u * columns, *restrict q = p + down * columns + right;
                    double *restrict at = rows_of + u * wide, sum = 0.0;
                    double part[LANES] = {0};
                    int64_t v = begin;
                    if (down < 0) {
                        for (; v < begin + broad; v++)
                            sum += p[v];
                        for (int64_t b = begin; b < end; b++) {
                            at[b] = sum;
                            sum += b + 1 < end ? (double)p[b + broad] - p[b] : 0.0;
                        }
                        continue;
                    }
                    for (; v + LANES <= begin + broad; v += LANES)
                        for (int c = 0; c < LANES; c++)
                            part[c] += (double)p[v + c] * q[v + c];
                    for (; v < begin + broad; v++)
                        sum += (double)p[v] * q[v];
                    for (int half = LANES / 2; half; half /= 2) /* pairs: an addition need not wait for all before */
                        for (int c = 0; c < half; c++)
                            part[c] += part[c + half];
                    sum += part[0];
                    for (int64_t b = begin; b < end; b++) {
                        at[b] = sum;
                        sum += b + 1 < end ? (double)p[b + broad] * q[b + broad] - (double)p[b] * q[b] : 0.0;
                    }
                }
                for (int64_t b = begin; b < end; b++) {
                    double sum = 0.0;
                    for (int64_t u = 0; u < tall; u++)
                        sum += rows_of[u * wide + b];
                    for (int64_t a = 0; a < places; a++) {
                        int64_t tap = a * wide + b;
                        if (down < 0)
                            sums[tap] += sum;
                        else
                            products[tap * taps + tap + down * wide + right] += sum;
                        if (a + 1 < places)
                            sum += rows_of[(a + tall) * wide + b] - rows_of[a * wide + b];
                    }
                }
            }
    for (int64_t t = 0; t < taps; t++)
        for (int64_t other = 0; other < t; other++)
            products[t * taps + other] = products[other * taps + t];
}

/* The convolution of x with weights [taps, padded] at the places of some windows: found [windows, 4, LANES]. */
INLINE void first_places(const float *restrict x, int64_t columns, const float *restrict weights, int64_t padded,
                         int64_t high, int64_t wide, int count, value *restrict found)
{
    vector sums[4 * TOGETHER];
    UNROLL
    for (int k = 0; k < 4 * count; k++)
        sums[k] = (vector){0};
    for (int64_t a = 0; a < high; a++)
        for (int64_t b = 0; b < wide; b++) {
            vector weight = *(const vector *)(weights + (a * wide + b) * padded);
            const float *restrict at = x + a * columns + b;
            UNROLL
            for (int k = 0; k < count; k++) {
                sums[4 * k] += weight * at[2 * k];
                sums[4 * k + 1] += weight * at[2 * k + 1];
                sums[4 * k + 2] += weight * at[columns + 2 * k];
                sums[4 * k + 3] += weight * at[columns + 2 * k + 1];
            }
        }
    UNROLL
    for (int k = 0; k < 4 * count; k++)
        store_vector(found + k * LANES, sums[k]);
}

INLINE void first_windows(const value *restrict found, int count, int64_t channels, int lanes,
                          const float *restrict scale, const float *restrict shift, value *restrict y,
                          uint8_t *restrict choice)
{
    for (int k = 0; k < count; k++)
        window(found + 4 * k * LANES, 2 * LANES, LANES, lanes, scale, shift, y + k * channels, 0,
               choice ? choice + k * channels : 0);
}

/* y and choice as in `forward`, of the convolution of x with weights [taps, padded]; padded: channels, filled up with
   zeros to a multiple of LANES. */
void first_forward(const float *restrict x, int64_t samples, int64_t rows, int64_t columns, int64_t high, int64_t wide,
                   int64_t channels, int64_t padded, const float *restrict weights, const float *restrict scale,
                   const float *restrict shift, value *restrict y, uint8_t *restrict choice)
{
    int64_t up = (rows - high + 1) / 2, across = (columns - wide + 1) / 2;
    for (int64_t s = 0; s < samples; s++)
        for (int64_t i = 0; i < up; i++)
            for (int64_t j = 0; j < across;) {
                const float *restrict at = x + (s * rows + 2 * i) * columns + 2 * j;
                int64_t out = ((s * up + i) * across + j) * channels;
                int count = across - j >= TOGETHER ? TOGETHER : 1;
                for (int64_t first = 0; first < channels; first += LANES) {
                    value found[4 * TOGETHER * LANES];
                    uint8_t *chosen = choice ? choice + out + first : 0;
                    if (count == TOGETHER)
                        first_places(at, columns, weights + first, padded, high, wide, TOGETHER, found);
                    else
                        first_places(at, columns, weights + first, padded, high, wide, 1, found);
                    if (channels - first >= LANES)
                        first_windows(found, count, channels, LANES, scale + first, shift + first, y + out + first,
                                      chosen);
                    else
                        first_windows(found, count, channels, (int)(channels - first), scale + first, shift + first,
                                      y + out + first, chosen);
                }
                j += count;
            }
}

INLINE void first_window_gradients(const float *restrict x, int64_t columns, const value *restrict g,
                                   const uint8_t *restrict choice, int64_t high, int64_t wide, int64_t channels,
                                   int lanes, int count, vector *restrict of_weights, vector *restrict sum)
{
    vector through[4 * TOGETHER];
    UNROLL
    for (int k = 0; k < count; k++) {
        float all[LANES] = {0};
        uint8_t chosen[LANES];
        memset(chosen, INACTIVE, LANES);
        memcpy(chosen, choice + k * channels, lanes);
        for (int c = 0; c < lanes; c++)
            all[c] = load(g[k * channels + c]);
        integers bits, which = __builtin_convertvector(*(bytes *)chosen, integers);
        memcpy(&bits, all, sizeof bits);
        UNROLL
        for (int32_t q = 0; q < 4; q++) { /* a mask and no condition: nothing foresees what is chosen */
            through[4 * k + q] = (vector)(bits & (which == q));
            *sum += through[4 * k + q];
        }
    }
    for (int64_t a = 0; a < high; a++)
        for (int64_t b = 0; b < wide; b++) {
            const float *restrict at = x + a * columns + b;
            vector all[4] = {of_weights[a * wide + b]}; /* four sums: an addition need not wait for the one before */
            UNROLL
            for (int k = 0; k < count; k++) {
                all[0] += through[4 * k] * at[2 * k];
                all[1] += through[4 * k + 1] * at[2 * k + 1];
                all[2] += through[4 * k + 2] * at[columns + 2 * k];
                all[3] += through[4 * k + 3] * at[columns + 2 * k + 1];
            }
            of_weights[a * wide + b] = (all[0] + all[1]) + (all[2] + all[3]);
        }
}

INLINE void first_gradients(const float *restrict x, const value *restrict g, const uint8_t *restrict choice,
                            int64_t samples, int64_t rows, int64_t columns, int64_t high, int64_t wide,
                            int64_t channels, int lanes, double *restrict of_weights, double *restrict sums)
{
    int64_t up = (rows - high + 1) / 2, across = (columns - wide + 1) / 2, taps = high * wide, windows = 0;
    vector part[MOST_TAPS], sum = {0};
    memset(part, 0, sizeof(vector) * taps);
    for (int64_t s = 0; s < samples; s++)
        for (int64_t i = 0; i < up; i++) {
            for (int64_t j = 0; j < across;) {
                const float *restrict at = x + (s * rows + 2 * i) * columns + 2 * j;
                int64_t out = ((s * up + i) * across + j) * channels;
                if (across - j >= TOGETHER) {
                    first_window_gradients(at, columns, g + out, choice + out, high, wide, channels, lanes, TOGETHER,
                                           part, &sum);
                    j += TOGETHER;
                } else {
                    first_window_gradients(at, columns, g + out, choice + out, high, wide, channels, lanes, 1, part,
                                           &sum);
                    j++;
                }
            }
            windows += across;
            if (windows < CHUNK && (i + 1 < up || s + 1 < samples))
                continue;
            for (int64_t t = 0; t < taps; t++)
                for (int c = 0; c < lanes; c++)
                    of_weights[t * channels + c] += part[t][c];
            for (int c = 0; c < lanes; c++)
                sums[c] += sum[c];
            memset(part, 0, sizeof(vector) * taps);
            sum = (vector){0};
            windows = 0;
        }
}

/* Over the windows that are active: Σ g · what each tap saw at the place that was chosen, of_weights [taps, channels];
   and Σ g, sums [channels]. */
void first_backward(const float *restrict x, const value *restrict g, const uint8_t *restrict choice, int64_t samples,
                    int64_t rows, int64_t columns, int64_t high, int64_t wide, int64_t channels,
                    double *restrict of_weights, double *restrict sums)
{
    memset(of_weights, 0, sizeof(double) * high * wide * channels);
    memset(sums, 0, sizeof(double) * channels);
    FOR_CHANNELS(first_gradients(x, g + first, choice + first, samples, rows, columns, high, wide, channels, lanes,
                                 of_weights + first, sums + first))
}
