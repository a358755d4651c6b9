// GroupNorm and InstanceNorm kernels: each sample and group of channels has its own statistics.
#pragma once

#include "columns.h"
#include "row_norm.h"

namespace trimtab::TRIMTAB_SET {

// What the backward pass of one group needs of its sums: A = sum weight e, B = sum weight e xhat over its D entries.
// dx = weight rstd e - rstd A/D - (x - mean) rstd^2 B/D
struct GroupGradient {
    float slope, offset;
    GroupGradient(double rstd, double a, double b, double entries)
        : slope(float(-rstd * rstd * b / entries)), offset(float(-rstd * a / entries)) {}
};

// Gradients of weight and bias, summed by each thread over its samples and by `finish` over threads.
struct AffineSums {
    int64_t channels;
    Buffer<double> values;
    AffineSums(int threads, int64_t channels) : channels(channels), values(threads * 2 * channels) {}
    double* weight() { return values + thread_number() * 2 * channels; }
    double* bias() { return weight() + channels; }
    void finish(const GroupNorm& a) const {
        for (int64_t c = 0; c < channels; c++) {
            double w = 0, b = 0;
            for (int t = 0; t < a.threads; t++)
                w += values[t * 2 * channels + c], b += values[t * 2 * channels + channels + c];
            if (a.dweight) a.dweight[c] = float(w);
            if (a.dbias) a.dbias[c] = float(b);
        }
    }
};

inline double weight_of(const GroupNorm& a, int64_t c) { return a.weight ? a.weight[c] : 1; }
inline double bias_of(const GroupNorm& a, int64_t c) { return a.bias ? a.bias[c] : 0; }

// -- planes: a group is one run of memory --------------------------------------------------------------------------------

template <class T, bool plain, bool past> void group_planes_forward(const GroupNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    const int64_t width = a.channels / a.groups, entries = width * a.plane;

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples * a.groups);
        for (int64_t row = share.begin; row < share.end; row++) {
            const int64_t start = row * entries, first = row % a.groups * width;
            struct Read {
                const T* x;
                int64_t ahead;
                TRIMTAB_INLINE Vec operator()(int64_t k, int n) const {
                    prefetch(x + k + ahead);
                    return load(x + k, n);
                }
                TRIMTAB_INLINE Vec again(int64_t k, int n) const { return load(x + k, n); }
            } read{x + start, max<int64_t>(entries, 512)};
            const RowStatistics statistics = RowStatistics::of(entries, true, a.eps, read);
            a.mean[row] = statistics.mean;
            a.rstd[row] = statistics.rstd;
            for (int64_t c = 0; c < width; c++) {
                const Affine affine(statistics.mean, statistics.rstd, weight_of(a, first + c), bias_of(a, first + c));
                const int64_t at = start + c * a.plane;
                each(a.plane, [&](int64_t j, int n) __attribute__((always_inline)) {
                    epilogue.prefetch(at + j + 512);
                    put<past>(y + at + j, epilogue.forward(affine(load(x + at + j, n)), at + j, n), n);
                });
            }
        }
        if (past) fence();
    }
}

template <class T, bool plain, bool past> void group_planes_backward(const GroupNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    T *dx = static_cast<T*>(a.dx), *dresidual = static_cast<T*>(a.dresidual);
    const int64_t width = a.channels / a.groups, entries = width * a.plane, ahead = max<int64_t>(entries, 512);
    AffineSums sums(a.threads, a.channels);

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples * a.groups);
        double *dweight = sums.weight(), *dbias = sums.bias();
        for (int64_t row = share.begin; row < share.end; row++) {
            const int64_t start = row * entries, first = row % a.groups * width;
            const float mean = a.mean[row], rstd = a.rstd[row];
            double of_weights = 0, of_products = 0;
            for (int64_t c = 0; c < width; c++) {
                const Affine affine(mean, rstd, weight_of(a, first + c), bias_of(a, first + c));
                double total = 0, product = 0;
                for (int64_t from = 0; from < a.plane; from += 16384) {
                    const int64_t at = start + c * a.plane + from;
                    Vec s[4] = {}, q[4] = {};
                    each_in_turn(min<int64_t>(16384, a.plane - from), [&](int64_t j, int n, int turn) __attribute__((always_inline)) {
                        prefetch(x + at + ahead + j);
                        prefetch(dy + at + ahead + j);
                        epilogue.prefetch(at + ahead + j);
                        const Vec v = load(x + at + j, n);
                        const Vec e = epilogue.backward(affine(v), load(dy + at + j, n), at + j, n);
                        s[turn] += e;
                        q[turn] += e * (v - mean);
                    });
                    total += sum((s[0] + s[1]) + (s[2] + s[3]));
                    product += sum((q[0] + q[1]) + (q[2] + q[3]));
                }
                product *= rstd;
                dbias[first + c] += total;
                dweight[first + c] += product;
                of_weights += weight_of(a, first + c) * total;
                of_products += weight_of(a, first + c) * product;
            }
            const GroupGradient gradient(rstd, of_weights, of_products, double(entries));
            for (int64_t c = 0; c < width; c++) {
                const Affine affine(mean, rstd, weight_of(a, first + c), bias_of(a, first + c));
                const int64_t at = start + c * a.plane;
                each(a.plane, [&](int64_t j, int n) __attribute__((always_inline)) {
                    const Vec v = load(x + at + j, n);
                    const Vec e = epilogue.backward(affine(v), load(dy + at + j, n), at + j, n);
                    if (!plain && dresidual) put<past>(dresidual + at + j, e, n);
                    put<past>(dx + at + j, e * affine.scale + ((v - mean) * gradient.slope + gradient.offset), n);
                });
            }
        }
        if (past) fence();
    }
    sums.finish(a);
}

// -- channels last: a sample is a matrix [plane, channels] ----------------------------------------------------------------

template <class T, bool plain, bool past> void group_rows_forward(const GroupNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const Columns<T, plain> columns{epilogue, a.channels};
    const T* x = static_cast<const T*>(a.x);
    const int64_t width = a.channels / a.groups;

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples);
        ColumnMoments moments(a.channels);
        ColumnAffine affine(a.channels);
        for (int64_t n = share.begin; n < share.end; n++) {
            const int64_t begin = n * a.plane, end = begin + a.plane;
            moments.start(x + begin * a.channels, a.plane);
            columns.moments(x, begin, end, moments);
            for (int64_t group = 0; group < a.groups; group++) {
                Moments all;
                for (int64_t c = group * width; c < (group + 1) * width; c++) all.merge(moments.of(c));
                const double rstd = 1 / std::sqrt(all.variance() + a.eps);
                a.mean[n * a.groups + group] = float(all.mean);
                a.rstd[n * a.groups + group] = float(rstd);
                for (int64_t c = group * width; c < (group + 1) * width; c++)
                    affine.set(c, Affine(all.mean, rstd, weight_of(a, c), bias_of(a, c)));
            }
            columns.template forward<past>(x, static_cast<T*>(a.y), begin, end, affine);
        }
        if (past) fence();
    }
}

template <class T, bool plain, bool past> void group_rows_backward(const GroupNorm& a) {
    const Epilogue<T, plain> epilogue(a.after);
    const Columns<T, plain> columns{epilogue, a.channels};
    const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    const int64_t width = a.channels / a.groups;
    AffineSums sums(a.threads, a.channels);

#pragma omp parallel num_threads(a.threads)
    {
        const Share share(a.samples);
        double *dweight = sums.weight(), *dbias = sums.bias();
        ColumnAffine affine(a.channels);
        Buffer<double> total(a.channels), product(a.channels);
        for (int64_t n = share.begin; n < share.end; n++) {
            const int64_t begin = n * a.plane, end = begin + a.plane;
            const float *mean = a.mean + n * a.groups, *rstd = a.rstd + n * a.groups;
            for (int64_t c = 0; c < a.channels; c++) {
                affine.set(c, Affine(mean[c / width], rstd[c / width], weight_of(a, c), bias_of(a, c)));
                total[c] = product[c] = 0;
            }
            columns.sums(x, dy, begin, end, affine, total, product);
            for (int64_t group = 0; group < a.groups; group++) {
                double of_weights = 0, of_products = 0;
                for (int64_t c = group * width; c < (group + 1) * width; c++) {
                    product[c] *= rstd[group];
                    dbias[c] += total[c];
                    dweight[c] += product[c];
                    of_weights += weight_of(a, c) * total[c];
                    of_products += weight_of(a, c) * product[c];
                }
                const GroupGradient gradient(rstd[group], of_weights, of_products, double(width) * double(a.plane));
                for (int64_t c = group * width; c < (group + 1) * width; c++)
                    affine.slope[c] = gradient.slope, affine.offset[c] = gradient.offset;
            }
            columns.template backward<past>(x, dy, static_cast<T*>(a.dx), static_cast<T*>(a.dresidual), begin, end, affine);
        }
        if (past) fence();
    }
    sums.finish(a);
}

template <class T> void group_norm_forward_of(const GroupNorm& a) {
    const int64_t entries = a.samples * a.channels * a.plane;
    ask_for_large_pages(a.y, entries * sizeof(T));
    choose(a.after.nothing(), goes_past_caches<T>(entries, a.channels_last ? a.channels : a.plane, a.y), [&](auto plain_, auto past_) {
        constexpr bool plain = decltype(plain_)::value, past = decltype(past_)::value;
        a.channels_last ? group_rows_forward<T, plain, past>(a) : group_planes_forward<T, plain, past>(a);
    });
}

template <class T> void group_norm_backward_of(const GroupNorm& a) {
    const int64_t entries = a.samples * a.channels * a.plane;
    ask_for_large_pages(a.dx, entries * sizeof(T));
    if (a.dresidual) ask_for_large_pages(a.dresidual, entries * sizeof(T));
    const bool past = goes_past_caches<T>(entries, a.channels_last ? a.channels : a.plane, a.dx, a.dresidual);
    choose(a.after.nothing(), past, [&](auto plain_, auto past_) {
        constexpr bool plain = decltype(plain_)::value, past = decltype(past_)::value;
        a.channels_last ? group_rows_backward<T, plain, past>(a) : group_planes_backward<T, plain, past>(a);
    });
}

}  // namespace trimtab::TRIMTAB_SET
