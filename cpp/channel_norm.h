// BatchNorm kernels: statistics for each channel over samples and positions.
//
// Two layouts. *Planes* ([samples, channels, plane], plane > 1): a block of channels small enough for the second-level
// cache is read twice, the second time from there, so that memory sees every entry once in and once out. *Rows*
// ([samples, channels], where channels_last lands too): two passes over all rows, the second one through blocks from the last
// to the first, to meet what the caches still hold.
#pragma once

#include "columns.h"

namespace trimtab::TRIMTAB_SET {

// -- planes -------------------------------------------------------------------------------------------------------------

// Sums of a channel since the last merge, as vectors; sums of many numbers of one size lose digits, so they stay short.
struct ChannelSums {
    Vec first{}, second{};
    int64_t count = 0;
};
constexpr int64_t kPiece = 4096, kMergeAfter = 4 * kPiece;
constexpr int64_t kChannelsAtOnce = 64;

inline int64_t channels_per_block(const ChannelNorm& a, int64_t bytes_per_channel) {
    const int64_t fitting = min(kSecondLevel / max<int64_t>(bytes_per_channel, 1), kChannelsAtOnce);
    return max<int64_t>(min(fitting, (a.channels + a.threads - 1) / a.threads), 1);
}

template <class T, bool plain, bool past> void planes_forward(const ChannelNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    const int64_t plane = a.plane, sample = a.channels * plane, bytes = a.samples * plane * int64_t(sizeof(T));
    const int64_t width = channels_per_block(a, bytes), blocks = (a.channels + width - 1) / width;
    const bool backwards = width == 1 && bytes > kSecondLevel;

#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block * width, end = min(begin + width, a.channels);
        if (a.batch_statistics) {
            ChannelSums sums[kChannelsAtOnce];
            Moments moments[kChannelsAtOnce];
            float shift[kChannelsAtOnce];  // near the mean: squares about it cancel little
            for (int64_t c = begin; c < end; c++) {
                const int64_t some = a.samples ? min<int64_t>(plane, 64) : 0;
                Vec total{};
                each(some, [&](int64_t j, int m) __attribute__((always_inline)) { total += load(x + c * plane + j, m); });
                shift[c - begin] = float(sum(total) / double(some));
            }
            auto merge = [&](int64_t i) {
                ChannelSums& s = sums[i];
                if (s.count == 0) return;
                moments[i].merge(double(s.count), shift[i], sum(s.first), sum(s.second));
                shift[i] = float(moments[i].mean);
                s = ChannelSums{};
            };
            for (int64_t n = 0; n < a.samples; n++) {
                for (int64_t c = begin; c < end; c++) {
                    const int64_t i = c - begin;
                    for (int64_t at = 0; at < plane; at += kPiece) {
                        const T* p = x + n * sample + c * plane + at;
                        const T* ahead = n + 1 < a.samples ? p + sample : p;
                        const int64_t count = min(kPiece, plane - at);
                        const float k = shift[i];
                        Vec s[4] = {}, q[4] = {};
                        each_in_turn(count, [&](int64_t j, int m, int turn) __attribute__((always_inline)) {
                            prefetch(ahead + j);
                            Vec d = first_lanes(load(p + j, m) - k, m);
                            s[turn] += d;
                            q[turn] += d * d;
                        });
                        sums[i].first += (s[0] + s[1]) + (s[2] + s[3]);
                        sums[i].second += (q[0] + q[1]) + (q[2] + q[3]);
                        if ((sums[i].count += count) >= kMergeAfter) merge(i);
                    }
                }
            }
            for (int64_t c = begin; c < end; c++) {
                merge(c - begin);
                const Moments& m = moments[c - begin];
                a.mean[c] = m.mean;
                a.variance[c] = m.variance();
                a.rstd[c] = 1 / std::sqrt(m.variance() + a.eps);
            }
        }
        for (int64_t step = 0; step < a.samples; step++) {
            const int64_t n = backwards ? a.samples - 1 - step : step;
            for (int64_t c = begin; c < end; c++) {
                const Affine affine(a.mean[c], a.rstd[c], a.weight ? a.weight[c] : 1, a.bias ? a.bias[c] : 0);
                const int64_t at = n * sample + c * plane;
                const T* next = c + width < a.channels ? x + at + width * plane : x + at;  // the next block's turn comes
                each(plane, [&](int64_t j, int m) __attribute__((always_inline)) {
                    prefetch(next + j);
                    epilogue.prefetch(at + j + 512);
                    put<past>(y + at + j, epilogue.forward(affine(load(x + at + j, m)), at + j, m), m);
                });
            }
        }
        if (past) fence();
    }
}

// With xhat = (x - mean) rstd, e the gradient behind the epilogue, m entries a channel, S = sum e, Q = sum e xhat:
// dbias = S, dweight = Q, dx = weight rstd (e - S/m - xhat Q/m), or weight rstd e where the statistics were given.
struct ChannelGradient {
    float slope, offset;  // dx = e * scale + ((x - center) * slope + offset)

    // total = sum e, product = sum e (x - center), the center being the mean rounded to float
    ChannelGradient(const ChannelNorm& a, int64_t c, double total, double product) {
        const double lost = a.mean[c] - float(a.mean[c]), rstd = a.rstd[c], weight = a.weight ? a.weight[c] : 1;
        const double q = (product - lost * total) * rstd;
        if (a.dweight) a.dweight[c] = float(q);
        if (a.dbias) a.dbias[c] = float(total);
        const double share = a.batch_statistics ? weight * rstd / (double(a.samples) * a.plane) : 0;
        slope = float(-share * q * rstd);
        offset = float(-share * (total - lost * rstd * q));
    }
};

template <class T, bool plain, bool past> void planes_backward(const ChannelNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    T *dx = static_cast<T*>(a.dx), *dresidual = static_cast<T*>(a.dresidual);
    const int64_t plane = a.plane, sample = a.channels * plane;
    const int64_t bytes = a.samples * plane * int64_t(sizeof(T)) * (a.after.residual ? 3 : 2);
    const int64_t width = channels_per_block(a, bytes), blocks = (a.channels + width - 1) / width;
    const bool backwards = width == 1 && bytes > kSecondLevel;
    const bool room = bytes * width * 2 < 3 * kSecondLevel;  // for the next block beside this one

#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block * width, end = min(begin + width, a.channels);
        ChannelSums sums[kChannelsAtOnce];
        double total[kChannelsAtOnce] = {}, product[kChannelsAtOnce] = {};
        auto merge = [&](int64_t i) {
            total[i] += sum(sums[i].first);
            product[i] += sum(sums[i].second);
            sums[i] = ChannelSums{};
        };
        for (int64_t n = 0; n < a.samples; n++) {
            for (int64_t c = begin; c < end; c++) {
                const int64_t i = c - begin;
                const Affine affine(a.mean[c], a.rstd[c], a.weight ? a.weight[c] : 1, a.bias ? a.bias[c] : 0);
                for (int64_t start = 0; start < plane; start += kPiece) {
                    const int64_t at = n * sample + c * plane + start, count = min(kPiece, plane - start);
                    const int64_t ahead = n + 1 < a.samples ? at + sample : at;
                    Vec s[4] = {}, q[4] = {};
                    each_in_turn(count, [&](int64_t j, int m, int turn) __attribute__((always_inline)) {
                        prefetch(x + ahead + j);
                        prefetch(dy + ahead + j);
                        epilogue.prefetch(ahead + j);
                        Vec v = load(x + at + j, m), e = load(dy + at + j, m);
                        e = epilogue.backward(affine(v), e, at + j, m);  // behind the last lane e is 0
                        s[turn] += e;
                        q[turn] += e * (v - affine.center);
                    });
                    sums[i].first += (s[0] + s[1]) + (s[2] + s[3]);
                    sums[i].second += (q[0] + q[1]) + (q[2] + q[3]);
                    if ((sums[i].count += count) >= kMergeAfter) merge(i);
                }
            }
        }
        float slopes[kChannelsAtOnce], offsets[kChannelsAtOnce];
        for (int64_t c = begin; c < end; c++) {
            const int64_t i = c - begin;
            merge(i);
            const ChannelGradient gradient(a, c, total[i], product[i]);
            slopes[i] = gradient.slope, offsets[i] = gradient.offset;
        }
        for (int64_t step = 0; step < a.samples; step++) {
            const int64_t n = backwards ? a.samples - 1 - step : step;
            for (int64_t c = begin; c < end; c++) {
                const Affine affine(a.mean[c], a.rstd[c], a.weight ? a.weight[c] : 1, a.bias ? a.bias[c] : 0);
                const float slope = slopes[c - begin], offset = offsets[c - begin];
                const int64_t at = n * sample + c * plane;
                const int64_t next = room && c + width < a.channels ? at + width * plane : at;
                each(plane, [&](int64_t j, int m) __attribute__((always_inline)) {
                    prefetch(x + next + j);
                    prefetch(dy + next + j);
                    epilogue.prefetch(next + j);
                    Vec v = load(x + at + j, m), e = load(dy + at + j, m);
                    e = epilogue.backward(affine(v), e, at + j, m);
                    if (!plain && dresidual) put<past>(dresidual + at + j, e, m);
                    put<past>(dx + at + j, e * affine.scale + ((v - affine.center) * slope + offset), m);
                });
            }
        }
        if (past) fence();
    }
}

// -- rows ---------------------------------------------------------------------------------------------------------------

template <class T, bool plain, bool past> void rows_forward(const ChannelNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const Columns<T, plain> columns{epilogue, a.channels};
    const T* x = static_cast<const T*>(a.x);
    Buffer<Moments> parts(a.batch_statistics ? a.threads * a.channels : 0);  // of each thread
    ColumnAffine affine(a.channels);

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples);
        if (a.batch_statistics && share.begin < share.end) {
            ColumnMoments moments(a.channels);
            moments.start(x + share.begin * a.channels, share.end - share.begin);
            columns.moments(x, share.begin, share.end, moments);
            for (int64_t c = 0; c < a.channels; c++) parts[thread_number() * a.channels + c] = moments.of(c);
        }
#pragma omp barrier
#pragma omp single
        for (int64_t c = 0; c < a.channels; c++) {
            if (a.batch_statistics) {
                Moments all;
                for (int t = 0; t < a.threads; t++) all.merge(parts[t * a.channels + c]);
                a.mean[c] = all.mean;
                a.variance[c] = all.variance();
                a.rstd[c] = 1 / std::sqrt(all.variance() + a.eps);
            }
            affine.set(c, Affine(a.mean[c], a.rstd[c], a.weight ? a.weight[c] : 1, a.bias ? a.bias[c] : 0));
        }
        columns.template forward<past>(x, static_cast<T*>(a.y), share.begin, share.end, affine);
        if (past) fence();
    }
}

template <class T, bool plain, bool past> void rows_backward(const ChannelNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const Columns<T, plain> columns{epilogue, a.channels};
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    Buffer<double> sums(a.threads * 2 * a.channels);  // of each thread: totals, products
    ColumnAffine affine(a.channels);
    for (int64_t c = 0; c < a.channels; c++)
        affine.set(c, Affine(a.mean[c], a.rstd[c], a.weight ? a.weight[c] : 1, a.bias ? a.bias[c] : 0));

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples);
        double* mine = sums + thread_number() * 2 * a.channels;
        columns.sums(x, dy, share.begin, share.end, affine, mine, mine + a.channels);
#pragma omp barrier
#pragma omp single
        for (int64_t c = 0; c < a.channels; c++) {
            double total = 0, product = 0;
            for (int t = 0; t < thread_count(); t++) {
                total += sums[t * 2 * a.channels + c];
                product += sums[t * 2 * a.channels + a.channels + c];
            }
            const ChannelGradient gradient(a, c, total, product);
            affine.slope[c] = gradient.slope, affine.offset[c] = gradient.offset;
        }
        columns.template backward<past>(x, dy, static_cast<T*>(a.dx), static_cast<T*>(a.dresidual), share.begin, share.end, affine);
        if (past) fence();
    }
}

// -- choice -------------------------------------------------------------------------------------------------------------

template <class T> void channel_norm_forward_of(const ChannelNorm& a) {
    const int64_t entries = a.samples * a.channels * a.plane;
    const bool rows = a.plane == 1, past = goes_past_caches<T>(entries, rows ? a.channels : a.plane, a.y);
    ask_for_large_pages(a.y, entries * sizeof(T));
    auto run = [&](auto plain, auto past_) {
        constexpr bool P = decltype(plain)::value, N = decltype(past_)::value;
        rows ? rows_forward<T, P, N>(a) : planes_forward<T, P, N>(a);
    };
    choose(a.after.nothing(), past, run);
}

template <class T> void channel_norm_backward_of(const ChannelNorm& a) {
    const int64_t entries = a.samples * a.channels * a.plane;
    const bool rows = a.plane == 1;
    const bool past = goes_past_caches<T>(entries, rows ? a.channels : a.plane, a.dx, a.dresidual);
    ask_for_large_pages(a.dx, entries * sizeof(T));
    if (a.dresidual) ask_for_large_pages(a.dresidual, entries * sizeof(T));
    auto run = [&](auto plain, auto past_) {
        constexpr bool P = decltype(plain)::value, N = decltype(past_)::value;
        rows ? rows_backward<T, P, N>(a) : planes_backward<T, P, N>(a);
    };
    choose(a.after.nothing(), past, run);
}

}  // namespace trimtab::TRIMTAB_SET
