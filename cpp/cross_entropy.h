// Cross entropy of rows of logits against classes, with label smoothing and class weights.
//
//     loss = (1 - s) w_y (lse - x_y) + s / K sum_k w_k (lse - x_k),   lse = log sum_k exp x_k
//
// A row is read once from memory, in pieces that stay in the first-level cache between the search for their greatest entry and
// the exponentials. Softmax is not stored: it is computed again on the way back, from the logits and lse.
#pragma once

#include <cmath>
#include <limits>

#include "support.h"
#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// f(k, n) for vectors that cover 0..count, those behind the first starting at whole cache lines of p.
template <class T, class F> TRIMTAB_INLINE void each_aligned(const T* p, int64_t count, F f) {
    const int64_t line = kLanes * int64_t(sizeof(T));
    const int64_t off = int64_t(reinterpret_cast<uintptr_t>(p) % line) / int64_t(sizeof(T));
    const int64_t head = min<int64_t>(count, off ? kLanes - off : 0);
    if (head) f(0, int(head));
    each(count - head, [&](int64_t k, int n) __attribute__((always_inline)) { f(head + k, n); });
}

// The two factors of a row: of its own class, and of every class.
struct RowFactors {
    float own, each;
    RowFactors(const CrossEntropy& a, int64_t y)
        : own(float((1 - a.smoothing) * (a.weight ? a.weight[y] : 1))), each(float(a.smoothing / double(a.classes))) {}
};

inline double weights_between(const CrossEntropy& a, int64_t begin, int64_t end) {
    if (!a.weight) return double(end - begin);
    double total = 0;
    for (int64_t k = begin; k < end; k++) total += a.weight[k];
    return total;
}

template <class T> void cross_entropy_forward_of(const CrossEntropy& a) {
    constexpr int64_t kPiece = 4096;
    const T* logits = static_cast<const T*>(a.x);
    const double all_weights = weights_between(a, 0, a.classes);

#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t row = 0; row < a.rows; row++) {
        const int64_t y = a.target[row];
        const T* x = logits + row * a.classes;
        a.loss[row] = 0, a.lse[row] = 0;
        if (y == a.ignore || y < 0 || y >= a.classes) continue;  // the caller has refused other targets
        float top = -kInfinity;
        double total = 0, weighted = 0;  // sum of exp(x - top), sum of w (x - top)
        double seen = 0;                 // the weights in `weighted`
        for (int64_t at = 0; at < a.classes; at += kPiece) {
            const int64_t count = min(kPiece, a.classes - at);
            Vec m[4] = {splat(top), splat(top), splat(top), splat(top)};
            each_in_turn(count, [&](int64_t k, int n, int turn) __attribute__((always_inline)) {
                prefetch(x + at + k + 2048);
                Vec v = load(x + at + k, n);
                for (int i = n; i < kLanes; i++) v[i] = top;  // behind the end: nothing greater
                m[turn] = v > m[turn] ? v : m[turn];
            });
            Vec most = m[0] > m[1] ? m[0] : m[1], other = m[2] > m[3] ? m[2] : m[3];
            most = most > other ? most : other;
            float now = top;
            for (int i = 0; i < kLanes; i++) now = max(now, most[i]);
            if (now > top) {
                total *= std::exp(double(top) - now);
                if (a.smoothing > 0 && seen > 0) weighted += (double(top) - now) * seen;
                top = now;
            }
            if (top == -kInfinity) {  // nothing but -inf so far, or a NaN
                weighted = top;
                for (int64_t k = 0; k < count; k++)
                    if (const float v = load(x + at + k, 1)[0]; v != v) total = v;
                continue;
            }
            Vec s[4] = {}, q[4] = {};
            each_in_turn(count, [&](int64_t k, int n, int turn) __attribute__((always_inline)) {
                Vec d = load(x + at + k, n) - top;
                s[turn] += first_lanes(exp(d), n);
                if (a.smoothing > 0) q[turn] += first_lanes(a.weight ? d * load(a.weight + at + k, n) : d, n);
            });
            total += sum((s[0] + s[1]) + (s[2] + s[3]));
            if (a.smoothing > 0) {
                weighted += sum((q[0] + q[1]) + (q[2] + q[3]));
                seen += weights_between(a, at, at + count);
            }
        }
        const double log_total = std::log(total), own = double(load(x + y, 1)[0]) - top;
        const RowFactors factors(a, y);
        double loss = factors.own * (log_total - own);
        if (a.smoothing > 0) loss += a.smoothing / double(a.classes) * (log_total * all_weights - weighted);
        a.loss[row] = float(loss);
        a.lse[row] = float(top + log_total);
    }
}

template <class T> void cross_entropy_backward_of(const CrossEntropy& a) {
    const T* logits = static_cast<const T*>(a.x);
    T* out = static_cast<T*>(a.dx);
    const double all_weights = weights_between(a, 0, a.classes);
    ask_for_large_pages(out, a.rows * a.classes * int64_t(sizeof(T)));
    const bool past_caches = a.rows * a.classes * int64_t(sizeof(T)) > kPastCaches;

    choose(past_caches, a.weight != nullptr, [&](auto past_, auto weighted_) {
        constexpr bool past = decltype(past_)::value, weighted = decltype(weighted_)::value;
#pragma omp parallel num_threads(a.threads)
        {
            const Share share(a.rows);
            for (int64_t row = share.begin; row < share.end; row++) {
                const int64_t y = a.target[row];
                const T* x = logits + row * a.classes;
                T* dx = out + row * a.classes;
                if (y == a.ignore || y < 0 || y >= a.classes) {
                    for (int64_t k = 0; k < a.classes; k++) dx[k] = T{};
                    continue;
                }
                const RowFactors factors(a, y);
                const float g = a.dloss[row], lse = a.lse[row];
                const float scale = g * float(factors.own + double(factors.each) * all_weights), base = g * factors.each;
                each_aligned(dx, a.classes, [&](int64_t k, int n) __attribute__((always_inline)) {
                    prefetch(x + k + 2048);
                    Vec d = exp(load(x + k, n) - lse) * scale;
                    d -= weighted ? load(a.weight + k, n) * base : splat(base);
                    if (uint64_t(y - k) < uint64_t(n)) d[y - k] -= g * factors.own;
                    put<past>(dx + k, d, n);
                });
            }
            if (past) fence();
        }
    });
}

}  // namespace trimtab::TRIMTAB_SET
