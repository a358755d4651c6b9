// LayerNorm and RMSNorm kernels: each row of [rows, columns] has its own statistics.
//
//     h = dropout(x) + residual        (each where asked for)
//     y = dropout(activation(norm(h) + another residual))
//
// A row stays in the first-level cache, so memory sees every tensor once. The mask of a dropout is drawn again on the
// way back; h is drawn up again from x and the residual unless the caller kept it.
#pragma once

#include "epilogue.h"
#include "moments.h"
#include "support.h"

namespace trimtab::TRIMTAB_SET {

// What stands before the norm. `plain`: nothing does, h is x.
template <class T, bool plain> struct Prologue {
    const T* residual;
    bool drops, done;
    Dropout dropout;

    explicit Prologue(const RowNorm& a)
        : residual(static_cast<const T*>(a.residual)), drops(a.dropout_p > 0), done(a.h_given), dropout(a.dropout_p, a.seed) {}

    TRIMTAB_INLINE Vec operator()(Vec v, int64_t i, int n) const {
        if constexpr (plain) return v;
        if (drops && !done) v = dropout(v, i);
        return residual ? v + load(residual + i, n) : v;
    }
    TRIMTAB_INLINE Vec back(Vec gradient, int64_t i) const {  // by x, from that by h
        return !plain && drops ? dropout(gradient, i) : gradient;
    }
    TRIMTAB_INLINE void prefetch(int64_t i) const {
        if constexpr (!plain)
            if (residual) prefetch_near(residual + i);
    }
};

// Mean and 1/deviation of one row, in pieces that fit the first-level cache: of each piece first the mean, then the squares
// about it. RMSNorm: mean 0, squares about 0.
struct RowStatistics {
    float mean, rstd;

    template <class Read> TRIMTAB_INLINE static RowStatistics of(int64_t columns, bool centered, double eps, Read read) {
        constexpr int64_t kPiece = 4096;
        Moments moments;
        for (int64_t at = 0; at < columns; at += kPiece) {
            const int64_t count = min(kPiece, columns - at);
            Vec s[4] = {}, q[4] = {}, rest[4] = {};
            if (!centered) {
                each_in_turn(count, [&](int64_t j, int n, int turn) __attribute__((always_inline)) {
                    Vec v = read(at + j, n);
                    q[turn] += v * v;
                });
                moments.squares += sum((q[0] + q[1]) + (q[2] + q[3]));
                continue;
            }
            each_in_turn(count, [&](int64_t j, int n, int turn) __attribute__((always_inline)) { s[turn] += read(at + j, n); });
            const float center = float(sum((s[0] + s[1]) + (s[2] + s[3])) / double(count));
            each_in_turn(count, [&](int64_t j, int n, int turn) __attribute__((always_inline)) {
                Vec d = first_lanes(read.again(at + j, n) - center, n);
                rest[turn] += d;
                q[turn] += d * d;
            });
            const double lost = sum((rest[0] + rest[1]) + (rest[2] + rest[3])), squares = sum((q[0] + q[1]) + (q[2] + q[3]));
            if (count == columns) {  // the usual case, without the divisions of a merge
                moments.mean = center + lost / double(count);
                moments.squares = squares;
                break;
            }
            moments.merge(double(count), center, lost, squares);
        }
        moments.count = double(columns);
        const double square = moments.variance() + eps;
        return {float(moments.mean), square == 0 ? 0.f : float(1 / std::sqrt(square))};  // eps = 0: a constant row gives 0
    }
};

inline int64_t padded(int64_t columns) { return (columns + 15) / 16 * 16; }

template <class T, bool plain, bool past> void row_norm_forward(const RowNorm& a) {
    const Prologue<T, plain> prologue(a);
    const Epilogue<T, plain> epilogue(a.after);
    const T* x = static_cast<const T*>(a.x);
    T *y = static_cast<T*>(a.y), *h = static_cast<T*>(a.h);
    const int64_t columns = a.columns, ahead = max<int64_t>(columns, 512);
    constexpr bool buffered = !plain || !std::is_same_v<T, float>;

#pragma omp parallel num_threads(a.threads)
    {
        // One row as floats: the sum before the norm is not rounded to T on its way to the statistics.
        Buffer<float> row(buffered ? padded(columns) : 0);
        const Share share(a.rows);
        for (int64_t r = share.begin; r < share.end; r++) {
            const int64_t start = r * columns;
            struct Read {
                const Prologue<T, plain>& prologue;
                const T* x;
                T* h;
                float* row;
                int64_t start, ahead;
                TRIMTAB_INLINE Vec operator()(int64_t k, int n) const {
                    prefetch_near(x + start + ahead + k);
                    prologue.prefetch(start + ahead + k);
                    Vec v = prologue(load(x + start + k, n), start + k, n);
                    if (buffered) store(row + k, v, kLanes);
                    if (!plain && h) store(h + start + k, v, n);
                    return first_lanes(v, n);
                }
                TRIMTAB_INLINE Vec again(int64_t k, int n) const {
                    return buffered ? load(row + k, kLanes) : load(x + start + k, n);
                }
            } read{prologue, x, h, row, start, ahead};
            const RowStatistics statistics = RowStatistics::of(columns, a.centered, a.eps, read);
            if (a.mean) a.mean[r] = statistics.mean;
            a.rstd[r] = statistics.rstd;
            const Vec mean = splat(statistics.mean), rstd = splat(statistics.rstd);
            auto write = [&](auto affine) __attribute__((always_inline)) {
                each(columns, [&](int64_t k, int n) __attribute__((always_inline)) {
                    Vec z = affine((read.again(k, n) - mean) * rstd, k, n);
                    put<past>(y + start + k, epilogue.forward(z, start + k, n), n);
                });
            };
            if (a.weight && a.bias)
                write([&](Vec v, int64_t k, int n) __attribute__((always_inline)) { return v * load(a.weight + k, n) + load(a.bias + k, n); });
            else if (a.weight)
                write([&](Vec v, int64_t k, int n) __attribute__((always_inline)) { return v * load(a.weight + k, n); });
            else
                write([&](Vec v, int64_t, int) __attribute__((always_inline)) { return v; });
        }
        if (past) fence();
    }
}

// With xhat = (h - mean) rstd and g = weight * e, e the gradient behind the epilogue, means over a row of D columns:
// dh = rstd (g - mean(g) - xhat mean(g xhat)) + what arrives at h besides; RMSNorm has no mean(g).
// dweight = sum e xhat and dbias = sum e over the rows.
//
// The sums over rows are kept as floats for 64 rows, then added to doubles: a float that takes thousands of rows forgets the
// last ones. Wide rows go four at a time, since then the sums themselves (2 D floats) are what crowds the cache.
template <class T, bool plain, bool past> void row_norm_backward(const RowNorm& a) {
    const Prologue<T, plain> prologue(a);
    const Epilogue<T, plain> epilogue(a.after);
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy), *dh = static_cast<const T*>(a.dh);
    T *dx = static_cast<T*>(a.dx), *dresidual = static_cast<T*>(a.dresidual), *dafter = static_cast<T*>(a.dafter);
    const int64_t columns = a.columns, width = padded(columns);
    constexpr int64_t kFlushAfter = 64;
    Buffer<double> totals(a.threads * 2 * width);

#pragma omp parallel num_threads(a.threads)
    {
        // dweight and dbias of the last rows; h and e of up to four rows
        Buffer<float> storage(2 * width + (plain ? 0 : 8 * width));
        float *dweight = storage, *dbias = dweight + width, *buffer = dbias + width;
        double *total_weight = totals + thread_number() * 2 * width, *total_bias = total_weight + width;

        auto rows = [&](int64_t first, auto count) __attribute__((always_inline)) {
            constexpr int R = decltype(count)::value;
            Vec s[R] = {}, q[R] = {};
            const int64_t begin = first * columns;
            each(columns, [&](int64_t k, int n) __attribute__((always_inline)) {
                const Vec weight = a.weight ? load(a.weight + k, n) : splat(1);
                Vec dw = load(dweight + k, kLanes), db = load(dbias + k, kLanes);
                for (int r = 0; r < R; r++) {
                    const int64_t at = begin + r * columns + k;
                    prefetch(x + at + R * columns);
                    prefetch(dy + at + R * columns);
                    prologue.prefetch(at + R * columns);
                    const Vec h = prologue(load(x + at, n), at, n);
                    Vec e = load(dy + at, n);
                    const Vec xhat = (h - (a.centered ? a.mean[first + r] : 0.f)) * a.rstd[first + r];
                    if (!plain) {
                        const Vec z = xhat * weight + (a.bias ? load(a.bias + k, n) : Vec{});
                        e = epilogue.backward(z, e, at, n);
                        if (dafter) put<past>(dafter + at, e, n);
                        store(buffer + r * width + k, h, kLanes);
                        store(buffer + (R + r) * width + k, e, kLanes);
                    }
                    dw += e * xhat;
                    db += e;
                    s[r] += e * weight;
                    q[r] += e * weight * xhat;
                }
                store(dweight + k, dw, kLanes);
                store(dbias + k, db, kLanes);
            });
            for (int r = 0; r < R; r++) {
                // dh = rstd g + offset + slope h
                const float rstd = a.rstd[first + r], mean = a.centered ? a.mean[first + r] : 0;
                const float mean_g = a.centered ? float(sum(s[r]) / double(columns)) : 0;
                const float slope = -float(sum(q[r]) / double(columns)) * rstd * rstd, offset = -rstd * mean_g - mean * slope;
                each(columns, [&](int64_t k, int n) __attribute__((always_inline)) {
                    const int64_t at = begin + r * columns + k;
                    const Vec weight = a.weight ? load(a.weight + k, n) : splat(1);
                    const Vec h = plain ? load(x + at, n) : load(buffer + r * width + k, kLanes);
                    const Vec e = plain ? load(dy + at, n) : load(buffer + (R + r) * width + k, kLanes);
                    Vec d = e * weight * rstd + (h * slope + offset);
                    if (!plain && dh) d += load(dh + at, n);
                    if (!plain && dresidual) put<past>(dresidual + at, d, n);
                    put<past>(dx + at, prologue.back(d, at), n);
                });
            }
        };
        auto flush = [&]() {
            for (int64_t k = 0; k < columns; k++) total_weight[k] += dweight[k], total_bias[k] += dbias[k];
            std::memset(dweight, 0, 2 * width * sizeof(float));
        };
        const Share share(a.rows);
        for (int64_t from = share.begin; from < share.end; from += kFlushAfter) {
            const int64_t to = min(share.end, from + kFlushAfter);
            int64_t r = from;
            if (columns > 1536)
                for (; r + 4 <= to; r += 4) rows(r, std::integral_constant<int, 4>{});
            for (; r < to; r++) rows(r, std::integral_constant<int, 1>{});
            flush();
        }
        if (past) fence();
    }
    for (int64_t k = 0; k < columns; k++) {
        double w = 0, b = 0;
        for (int t = 0; t < a.threads; t++) w += totals[t * 2 * width + k], b += totals[t * 2 * width + width + k];
        if (a.dweight) a.dweight[k] = float(w);
        if (a.dbias) a.dbias[k] = float(b);
    }
}

template <class T> void row_norm_forward_of(const RowNorm& a) {
    const int64_t entries = a.rows * a.columns;
    ask_for_large_pages(a.y, entries * sizeof(T));
    if (a.h) ask_for_large_pages(a.h, entries * sizeof(T));
    const bool plain = a.after.nothing() && !a.residual && a.dropout_p == 0;
    choose(plain, goes_past_caches<T>(entries, a.columns, a.y), [&](auto plain_, auto past) {
        row_norm_forward<T, decltype(plain_)::value, decltype(past)::value>(a);
    });
}

template <class T> void row_norm_backward_of(const RowNorm& a) {
    const int64_t entries = a.rows * a.columns;
    void* const outputs[] = {a.dx, a.dresidual, a.dafter};
    for (void* p : outputs)
        if (p) ask_for_large_pages(p, entries * sizeof(T));
    const bool plain = a.after.nothing() && !a.residual && a.dropout_p == 0 && !a.dh;
    const bool past = goes_past_caches<T>(entries, a.columns, a.dx, a.dresidual) && aligned(a.dafter, 64);
    choose(plain, past, [&](auto plain_, auto past_) {
        row_norm_backward<T, decltype(plain_)::value, decltype(past_)::value>(a);
    });
}

}  // namespace trimtab::TRIMTAB_SET
