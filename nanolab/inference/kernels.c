/* The two loops of decoding that torch's operators do in many passes: attention over the cache, and the candidates of a draw.

   float32. A row's result does not depend on its batch. Nothing is allocated; working memory of a row lies on the stack. Threads come
   from the OpenMP library that torch has loaded. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EPSILON 1.1920928955078125e-07f /* torch.finfo(torch.float32).eps, as RMSNorm has it */
#define AHEAD 32                        /* positions fetched ahead: the cache does not fit the processor's own (measured: 8 to 64) */

/* exp(x) for x <= 0, to about one unit in the last place: 2^n times Taylor's polynomial, |r| <= log(2)/2 */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x; /* below the smallest normal number; not a number stays what it is */
    float n = __builtin_rintf(x * 1.44269504088896341f);
    float r = __builtin_fmaf(n, 2.12194440e-4f, __builtin_fmaf(n, -0.693359375f, x));
    float p = 1.0f / 5040;
    p = __builtin_fmaf(p, r, 1.0f / 720);
    p = __builtin_fmaf(p, r, 1.0f / 120);
    p = __builtin_fmaf(p, r, 1.0f / 24);
    p = __builtin_fmaf(p, r, 1.0f / 6);
    p = __builtin_fmaf(p, r, 0.5f);
    p = __builtin_fmaf(p * r, r, r) + 1.0f;
    union { int32_t bits; float value; } power = { ((int32_t)n + 127) << 23 };
    return p * power.value;
}

/* out = scale * RMSNorm(x * cosine + (x with its halves exchanged) * sine), all of `width` */
static void turn(const float *restrict x, const float *restrict cosine, const float *restrict sine, long width, float scale,
                 float *restrict out) {
    long half = width / 2;
    float squares = 0;
    for (long d = 0; d < half; d++) out[d] = x[d] * cosine[d] + x[d + half] * sine[d];
    for (long d = half; d < width; d++) out[d] = x[d] * cosine[d] + x[d - half] * sine[d];
    #pragma omp simd reduction(+:squares)
    for (long d = 0; d < width; d++) squares += out[d] * out[d];
    scale /= sqrtf(squares / width + EPSILON);
    for (long d = 0; d < width; d++) out[d] *= scale;
}

/* out (width) = softmax(keys q) values over `length` positions; scores (length) is working memory */
static void attend(const float *restrict q, const float *restrict keys, const float *restrict values, long length, long width,
                   float *restrict scores, float *restrict out) {
    float top = -INFINITY, total = 0;
    long t = 0;
    for (; t + 4 <= length; t += 4) {
        const float *k = keys + t * width;
        float a = 0, b = 0, c = 0, e = 0;
        for (long d = 0; d < 4 * width; d += 16) __builtin_prefetch(k + AHEAD * width + d);
        #pragma omp simd reduction(+:a, b, c, e)
        for (long d = 0; d < width; d++) {
            a += q[d] * k[d];
            b += q[d] * k[d + width];
            c += q[d] * k[d + 2 * width];
            e += q[d] * k[d + 3 * width];
        }
        scores[t] = a, scores[t + 1] = b, scores[t + 2] = c, scores[t + 3] = e;
    }
    for (; t < length; t++) {
        float a = 0;
        #pragma omp simd reduction(+:a)
        for (long d = 0; d < width; d++) a += q[d] * keys[t * width + d];
        scores[t] = a;
    }
    #pragma omp simd reduction(max:top)
    for (t = 0; t < length; t++) top = scores[t] > top ? scores[t] : top;
    #pragma omp simd reduction(+:total)
    for (t = 0; t < length; t++) total += scores[t] = exponential(scores[t] - top);
    memset(out, 0, width * sizeof(float));
    for (t = 0; t + 4 <= length; t += 4) {
        const float *v = values + t * width;
        float a = scores[t], b = scores[t + 1], c = scores[t + 2], e = scores[t + 3];
        for (long d = 0; d < 4 * width; d += 16) __builtin_prefetch(v + AHEAD * width + d);
        #pragma omp simd
        for (long d = 0; d < width; d++) out[d] += a * v[d] + b * v[d + width] + c * v[d + 2 * width] + e * v[d + 3 * width];
    }
    for (; t < length; t++)
        for (long d = 0; d < width; d++) out[d] += scores[t] * values[t * width + d];
    for (long d = 0; d < width; d++) out[d] /= total;
}

/* Attention of decoding in one pass: rotate and normalise queries and keys, write keys and values, attend. Every token reads exactly the
   positions that it sees. mixed (tokens, heads + 2 kv_heads, width): queries, keys and values before rotation. cosine and sine
   (positions, width). keys and values (slots, kv_heads, room, width): one layer's. Token n goes to positions[n] of slots[n] and sees all
   positions up to it; one beyond `length` only pads the batch, and its output is 0. out (tokens, heads, width). */
void decode_attention(const float *mixed, const float *cosine, const float *sine, float *keys, float *values, const int64_t *slots,
                      const int64_t *positions, float *out, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, int64_t room,
                      int64_t length) {
    long stride = (heads + 2 * kv_heads) * width, group = heads / kv_heads;
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < tokens; n++) {
        const float *k = mixed + n * stride + heads * width, *v = k + kv_heads * width;
        for (long h = 0; h < kv_heads; h++) {
            long place = ((slots[n] * kv_heads + h) * room + positions[n]) * width;
            turn(k + h * width, cosine + positions[n] * width, sine + positions[n] * width, width, 1.0f, keys + place);
            memcpy(values + place, v + h * width, width * sizeof(float));
        }
    }
    /* only now, since a token may see another one of this call */
    #pragma omp parallel for schedule(dynamic, 4)
    for (long n = 0; n < tokens; n++) {
        long position = positions[n];
        float *y = out + n * heads * width;
        if (position >= length) {
            memset(y, 0, heads * width * sizeof(float));
            continue;
        }
        float q[width], scores[position + 1];
        for (long h = 0; h < heads; h++) {
            long place = (slots[n] * kv_heads + h / group) * room * width;
            turn(mixed + n * stride + h * width, cosine + position * width, sine + position * width, width, 1.0f / sqrtf(width), q);
            attend(q, keys + place, values + place, position + 1, width, scores, y + h * width);
        }
    }
}

/* let the value at the root of a heap of the k largest (the smallest of them first) sink to its place */
static void sink(float *heap, long k, long i) {
    float value = heap[i];
    for (long child; (child = 2 * i + 1) < k; i = child) {
        if (child + 1 < k && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* Of each row of logits (rows, vocab): the k largest (of equal ones those of lowest id) in the order of their ids, and their
   log-probability under the whole row's softmax, at most 0. ids and log_p (rows, k). Returns in how many rows the log of the sum is not
   a finite number; what is written for those means nothing. */
int64_t top_candidates(const float *logits, int64_t *ids, float *log_p, int64_t rows, int64_t vocab, int64_t k) {
    int64_t bad = 0;
    #pragma omp parallel for schedule(static) reduction(+:bad)
    for (long n = 0; n < rows; n++) {
        const float *x = logits + n * vocab;
        float top = -INFINITY, heap[k];
        double total = 0;
        #pragma omp simd reduction(max:top)
        for (long i = 0; i < vocab; i++) top = x[i] > top ? x[i] : top;
        for (long start = 0; start < vocab; start += 256) { /* short float sums, added up in double */
            long end = start + 256 < vocab ? start + 256 : vocab;
            float part = 0;
            #pragma omp simd reduction(+:part)
            for (long i = start; i < end; i++) part += exponential(x[i] - top);
            total += part;
        }
        total = top + log(total);
        if (!isfinite(total)) {
            bad++;
            memset(ids + n * k, 0, k * sizeof(int64_t));
            memset(log_p + n * k, 0, k * sizeof(float));
            continue;
        }
        memcpy(heap, x, k * sizeof(float));
        for (long i = k / 2 - 1; i >= 0; i--) sink(heap, k, i);
        for (long i = k; i < vocab; i++)
            if (x[i] > heap[0]) {
                heap[0] = x[i];
                sink(heap, k, 0);
            }
        float least = heap[0];
        long equal = 0, found = 0; /* how many of the k equal the least of them: the first ones are taken */
        for (long i = 0; i < k; i++) equal += heap[i] == least;
        for (long i = 0; found < k; i++) {
            if (!(x[i] >= least) || (x[i] == least && equal-- <= 0)) continue;
            float value = x[i] - total;
            ids[n * k + found] = i;
            log_p[n * k + found++] = value < 0 ? value : 0;
        }
    }
    return bad;
}
