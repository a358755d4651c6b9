// One vector of the machine's own width, and the few operations that kernels need of it.
//
// Included by kernels.cpp only, once per instruction set, inside that set's namespace. The width is the native one:
// a wider type is split by GCC into pieces that travel through memory, which costs a factor of two to nine.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TRIMTAB_INLINE inline __attribute__((always_inline))

namespace trimtab::TRIMTAB_SET {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

// The standard library's would be symbols that belong to no instruction set: see instruction_set.h.
template <class T> TRIMTAB_INLINE constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> TRIMTAB_INLINE constexpr T max(T a, T b) { return a < b ? b : a; }
template <class T> TRIMTAB_INLINE constexpr T clamp(T v, T low, T high) { return min(max(v, low), high); }

struct bfloat16 {
    uint16_t bits;
};

template <class To, class From> TRIMTAB_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

TRIMTAB_INLINE Vec splat(float v) { return Vec{} + v; }

// -- bfloat16 is the upper half of a float; rounding is to nearest even, and a NaN stays one ---------------------------

TRIMTAB_INLINE Vec widen(Halves h) { return bit_cast<Vec>(__builtin_convertvector(h, Bits) << 16); }

TRIMTAB_INLINE Halves narrow(Vec v) {
#if defined(__AVX512BF16__)
    return bit_cast<Halves>(_mm512_cvtneps_pbh(__m512(v)));
#else
    Bits u = bit_cast<Bits>(v);
    Bits rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    Bits kept = v == v ? rounded : (u >> 16) | 0x40;
    return __builtin_convertvector(kept, Halves);
#endif
}

// -- loads and stores of n <= kLanes entries; where n is the constant kLanes the branch is compiled away ----------------

TRIMTAB_INLINE Vec load(const float* p, int n) {
    Vec v;
    if (n == kLanes) {
        std::memcpy(&v, p, sizeof v);
        return v;
    }
#if defined(__AVX512F__)
    return Vec(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
#else
    float part[kLanes] = {};
    for (int i = 0; i < n; i++) part[i] = p[i];
    std::memcpy(&v, part, sizeof v);
    return v;
#endif
}

TRIMTAB_INLINE Vec load(const bfloat16* p, int n) {
    Halves h;
    if (n == kLanes) {
        std::memcpy(&h, p, sizeof h);
        return widen(h);
    }
    uint16_t part[kLanes] = {};
    for (int i = 0; i < n; i++) part[i] = p[i].bits;
    std::memcpy(&h, part, sizeof h);
    return widen(h);
}

TRIMTAB_INLINE void store(float* p, Vec v, int n) {
    if (n == kLanes) {
        std::memcpy(p, &v, sizeof v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), __m512(v));
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

TRIMTAB_INLINE void store(bfloat16* p, Vec v, int n) {
    Halves h = narrow(v);
    if (n == kLanes) {
        std::memcpy(p, &h, sizeof h);
        return;
    }
    for (int i = 0; i < n; i++) p[i].bits = h[i];
}

// Past the caches: the line is not read first, and what others keep there stays. Full, aligned vectors only.
template <bool past> TRIMTAB_INLINE void put(float* p, Vec v, int n) {
#if defined(__x86_64__)
    if (past && n == kLanes) {
#if defined(__AVX512F__)
        _mm512_stream_ps(p, __m512(v));
#elif defined(__AVX2__)
        _mm256_stream_ps(p, __m256(v));
#else
        _mm_stream_ps(p, __m128(v));
#endif
        return;
    }
#endif
    store(p, v, n);
}

template <bool past> TRIMTAB_INLINE void put(bfloat16* p, Vec v, int n) {
#if defined(__AVX512F__)
    if (past && n == kLanes) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bit_cast<__m256i>(narrow(v)));
        return;
    }
#elif defined(__AVX2__)
    if (past && n == kLanes) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(p), bit_cast<__m128i>(narrow(v)));
        return;
    }
#endif
    store(p, v, n);
}

// Stores past the caches become visible to other threads only behind a fence.
TRIMTAB_INLINE void fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

TRIMTAB_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
TRIMTAB_INLINE void prefetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }

// -- arithmetic --------------------------------------------------------------------------------------------------------

TRIMTAB_INLINE Vec first_lanes(Vec v, int n) {  // zero from lane n on
    if (n == kLanes) return v;
    for (int i = n; i < kLanes; i++) v[i] = 0;
    return v;
}

TRIMTAB_INLINE double sum(Vec v) {
#if defined(__AVX512F__)
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(__m512(v)));
    const __m512d high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(__m512(v)), 1)));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
#elif defined(__AVX2__)
    const __m256d all = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(__m256(v))),
                                      _mm256_cvtps_pd(_mm256_extractf128_ps(__m256(v), 1)));
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(all), _mm256_extractf128_pd(all, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
#else
    double total = 0;
    for (int i = 0; i < kLanes; i++) total += v[i];
    return total;
#endif
}

TRIMTAB_INLINE Bits lane_numbers() {
    Bits v;
    for (int i = 0; i < kLanes; i++) v[i] = i;
    return v;
}

// f(k, n) for the vectors that cover 0..count: n is kLanes but for the last.
template <class F> TRIMTAB_INLINE void each(int64_t count, F f) {
    int64_t k = 0;
    for (; k + kLanes <= count; k += kLanes) f(k, kLanes);
    if (k < count) f(k, int(count - k));
}

// The same with four accumulators taking turns, f(k, n, turn): a sum is then not bound by the latency of one addition.
template <class F> TRIMTAB_INLINE void each_in_turn(int64_t count, F f) {
    int64_t k = 0;
    for (; k + 4 * kLanes <= count; k += 4 * kLanes) {
        f(k, kLanes, 0);
        f(k + kLanes, kLanes, 1);
        f(k + 2 * kLanes, kLanes, 2);
        f(k + 3 * kLanes, kLanes, 3);
    }
    for (; k + kLanes <= count; k += kLanes) f(k, kLanes, 0);
    if (k < count) f(k, int(count - k), 1);
}

TRIMTAB_INLINE Vec square_root(Vec v) {
#if defined(__AVX512F__)
    return Vec(_mm512_sqrt_ps(__m512(v)));
#elif defined(__AVX2__)
    return Vec(_mm256_sqrt_ps(__m256(v)));
#else
    for (int i = 0; i < kLanes; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// 1 / sqrt(v), to 2 units in the last place: an estimate and a step of Newton's, where that is quicker than the instructions.
TRIMTAB_INLINE Vec inverse_root(Vec v) {
#if defined(__AVX512F__)
    const Vec r = Vec(_mm512_rsqrt14_ps(__m512(v)));
    return r + r * 0.5f * (1.f - v * r * r);
#else
    return 1.f / square_root(v);
#endif
}

// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2: a fit, 3e-9
TRIMTAB_INLINE Vec exp_fit(Vec r) {
    Vec q = r * 1.381461100e-3f + 8.368710035e-3f;
    q = q * r + 4.166838741e-2f;
    q = q * r + 1.666652069e-1f;
    return q * r + 4.999999345e-1f;
}

// e^x to 2 units in the last place; 0 below -87.3, where floats end (with AVX-512 -104, where their denormals do).
TRIMTAB_INLINE Vec exp(Vec x) {
#if defined(__AVX512F__)
    const __m512 in = _mm512_max_ps(_mm512_set1_ps(-104.f), _mm512_min_ps(_mm512_set1_ps(88.f), __m512(x)));  // a NaN passes
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(in, _mm512_set1_ps(1.44269504088896f)), 8);
    const Vec n = Vec(whole);  // x / ln 2 to the nearest integer
    Vec r = Vec(in) - n * 0.693145751953125f;  // ln 2 in two pieces, the first exact for every n
    r = r - n * 1.42860682030941723e-6f;
    return Vec(_mm512_scalef_ps(__m512(exp_fit(r) * (r * r) + r + 1.f), whole));
#else
    Vec in = x < -87.3f ? splat(-87.3f) : x;
    in = in > 88.f ? splat(88.f) : in;
    Ints whole = __builtin_convertvector(in * 1.44269504088896f + (in < 0 ? splat(-0.5f) : splat(0.5f)), Ints);
    Vec n = __builtin_convertvector(whole, Vec);
    Vec r = in - n * 0.693145751953125f;
    r = r - n * 1.42860682030941723e-6f;
    Vec power = bit_cast<Vec>((whole << 23) + 0x3f800000);
    Vec y = (exp_fit(r) * (r * r) + r + 1.f) * power;
    y = x < -87.3f ? Vec{} : y;
    return x == x ? y : x;
#endif
}

}  // namespace trimtab::TRIMTAB_SET
