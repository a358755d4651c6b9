// Local response normalization across channels: b = x s^-beta with s = k + alpha/size * (sum of x^2 over a window of channels).
//
// A strip of positions goes down the channels. Adding the square that enters a window and subtracting the one that leaves
// would drift, so each window is summed anew: it is small, and its squares are in the cache.
#pragma once

#include <cmath>

#include "support.h"
#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

// s^-beta. Quarters of the exponent are roots, which are exact to a rounding each; any other goes lane by lane through pow.
struct Power {
    double beta;
    bool quarters;
    explicit Power(double beta) : beta(beta), quarters(beta * 4 == std::floor(beta * 4) && beta >= 0 && beta <= 2) {}
    TRIMTAB_INLINE Vec operator()(Vec s) const {
        if (beta == 0.75) {  // the usual one: s^-1/2 s^-1/4
            const Vec r = inverse_root(s);
            return r * r * inverse_root(r);
        }
        if (!quarters) {
            Vec r;
            for (int i = 0; i < kLanes; i++) r[i] = float(std::pow(double(s[i]), -beta));
            return r;
        }
        const int n = int(beta * 4);
        Vec r = splat(1);
        if (n & 1) r = r * square_root(square_root(s));
        if (n & 2) r = r * square_root(s);
        for (int i = 0; i < n / 4; i++) r = r * s;
        return 1.f / r;
    }
};

// Positions that go down the channels together: long runs of memory, whose squares still fit the second-level cache.
inline int64_t strip_of(const ResponseNorm& a) {
    const int64_t fitting = 16384 / max<int64_t>(a.channels, 1) / kLanes * kLanes;
    return clamp<int64_t>(fitting, 4 * kLanes, (a.plane + kLanes - 1) / kLanes * kLanes + 4 * kLanes);
}

// Window of channel c: from c - size/2, `size` channels, as far as they exist.
struct Window {
    int64_t begin, end;
    Window(int64_t c, int64_t size, int64_t channels) : begin(max<int64_t>(0, c - size / 2)), end(min(channels, c - size / 2 + size)) {}
};

// One strip: `count` positions from `start` on, in all channels. f(channel, place in the tensor, place in a buffer of
// channels x strip, lanes, s) for each vector, with s = k + alpha * (sum of squares in the window).
template <class T> struct Strip {
    const ResponseNorm& a;
    const T* x;
    int64_t width, start, count;
    float* room;  // the squares, and behind them as many buffers more as were asked for

    TRIMTAB_INLINE float* buffer(int i) const { return room + i * a.channels * width; }

    template <class F> TRIMTAB_INLINE void walk(F f) const {
        for (int64_t c = 0; c < a.channels; c++)
            each(count, [&](int64_t j, int n) __attribute__((always_inline)) { f(c, start + c * a.plane + j, c * width + j, n); });
    }
    template <class F> TRIMTAB_INLINE void windows(F f) const {
        float* squares = buffer(0);
        walk([&](int64_t, int64_t at, int64_t here, int n) __attribute__((always_inline)) {
            prefetch(x + at + 8 * a.plane);
            const Vec v = load(x + at, n);
            store(squares + here, v * v, kLanes);
        });
        const float alpha = float(a.alpha), k = float(a.k);
        walk([&](int64_t c, int64_t at, int64_t here, int n) __attribute__((always_inline)) {
            const Window window(c, a.size, a.channels);
            Vec s{};
            for (int64_t w = window.begin; w < window.end; w++) s += load(squares + here + (w - c) * width, kLanes);
            f(at, here, n, s * alpha + k);
        });
    }
};

// f(strip) for all strips, shared among threads, each with `buffers` buffers.
template <class T, class F> void each_strip(const ResponseNorm& a, int buffers, F f) {
    const int64_t width = strip_of(a), strips = (a.plane + width - 1) / width;
#pragma omp parallel num_threads(a.threads)
    {
        Buffer<float> room(buffers * a.channels * width);
        const Share share(a.samples * strips);
        for (int64_t i = share.begin; i < share.end; i++) {
            const int64_t from = i % strips * width, start = i / strips * a.channels * a.plane + from;
            f(Strip<T>{a, static_cast<const T*>(a.x), width, start, min(width, a.plane - from), room});
        }
    }
}

template <class T> void response_norm_forward_of(const ResponseNorm& a) {
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    ask_for_large_pages(y, a.samples * a.channels * a.plane * sizeof(T));
    const Power power(a.beta);
    each_strip<T>(a, 1, [&](const Strip<T>& strip) {
        strip.windows([&](int64_t at, int64_t, int n, Vec s) __attribute__((always_inline)) {
            store(y + at, load(x + at, n) * power(s), n);
        });
    });
}

// dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum_{c: i in window(c)} dy_c x_c s_c^(-beta - 1)
template <class T> void response_norm_backward_of(const ResponseNorm& a) {
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    T* dx = static_cast<T*>(a.dx);
    ask_for_large_pages(dx, a.samples * a.channels * a.plane * sizeof(T));
    const Power power(a.beta);
    const float twice = float(2 * a.alpha * a.beta);
    each_strip<T>(a, 3, [&](const Strip<T>& strip) {
        float *powers = strip.buffer(1), *pulls = strip.buffer(2);
        strip.windows([&](int64_t at, int64_t here, int n, Vec s) __attribute__((always_inline)) {
            prefetch(dy + at + 8 * a.plane);
            const Vec p = power(s);
            store(powers + here, p, kLanes);
            store(pulls + here, load(dy + at, n) * load(x + at, n) * p / s, kLanes);
        });
        strip.walk([&](int64_t c, int64_t at, int64_t here, int n) __attribute__((always_inline)) {
            // the windows that hold c are those of c - (size - 1 - size/2) ... c + size/2
            const int64_t begin = max<int64_t>(0, c - (a.size - 1 - a.size / 2)), end = min(a.channels, c + a.size / 2 + 1);
            Vec pull{};
            for (int64_t w = begin; w < end; w++) pull += load(pulls + here + (w - c) * strip.width, kLanes);
            store(dx + at, load(dy + at, n) * load(powers + here, kLanes) - load(x + at, n) * (pull * twice), n);
        });
    });
}

}  // namespace trimtab::TRIMTAB_SET
