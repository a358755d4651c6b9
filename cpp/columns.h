// Walks over a matrix [rows, channels] in which each channel has its own numbers: BatchNorm of flat and channels_last
// inputs over all rows, GroupNorm of channels_last inputs over the rows of one sample.
//
// Memory is read in order, row by row; the sums and constants of the channels stay in registers or the first-level cache.
#pragma once

#include "epilogue.h"
#include "moments.h"
#include "support.h"

namespace trimtab::TRIMTAB_SET {

// One value per channel, padded so that whole vectors can be read and written behind the last.
struct Column {
    Buffer<float> values;
    explicit Column(int64_t channels) : values(channels + kLanes) {}
    float& operator[](int64_t c) { return values[c]; }
    TRIMTAB_INLINE Vec at(int64_t c) const { return load(values + c, kLanes); }
    TRIMTAB_INLINE void put(int64_t c, Vec v) { store(values + c, v, kLanes); }
};

// The Moments of all channels side by side, so that merging them is a loop over vectors.
struct ColumnMoments {
    int64_t channels;
    double count = 0;
    Buffer<double> mean, squares;
    Column origin, first, second;  // sums of x - origin and of its square since the last merge

    explicit ColumnMoments(int64_t channels)
        : channels(channels), mean(channels), squares(channels), origin(channels), first(channels), second(channels) {}

    // The origin is a guess at the mean, from the first rows: the nearer, the less cancels.
    template <class T> void start(const T* x, int64_t rows) {
        count = 0;
        const int64_t some = min<int64_t>(rows, 16);
        for (int64_t c = 0; c < channels; c++) {
            mean[c] = squares[c] = 0;
            float total = 0;
            for (int64_t r = 0; r < some; r++) total += load(x + r * channels + c, 1)[0];
            origin[c] = total / float(some);
        }
    }
    void merge(double n) {
        const double part = 1 / n, share = n / (count + n), weight = count * share;
        for (int64_t c = 0; c < channels; c++) {
            const double s = first[c] * part, delta = origin[c] + s - mean[c];
            squares[c] += second[c] - first[c] * s + delta * delta * weight;
            mean[c] += delta * share;
            origin[c] = float(mean[c]);
        }
        count += n;
    }
    Moments of(int64_t c) const { return {count, mean[c], squares[c]}; }
};

// y = (x - center) * scale + shift, and on the way back dx = e * scale + ((x - center) * slope + offset).
struct ColumnAffine {
    Column center, scale, shift, slope, offset;
    explicit ColumnAffine(int64_t channels)
        : center(channels), scale(channels), shift(channels), slope(channels), offset(channels) {}
    void set(int64_t c, const Affine& affine) { center[c] = affine.center, scale[c] = affine.scale, shift[c] = affine.shift; }
};

template <class T, bool plain> struct Columns {
    const Epilogue<T, plain>& epilogue;
    int64_t channels;

    // Rows whose sums are kept as floats, before they are added to doubles.
    int64_t height(int tensors) const { return clamp<int64_t>(131072 / max<int64_t>(channels, 1) / tensors, 16, 256); }
    static constexpr int64_t kAhead = 2048;  // entries: prefetched so long before they are read

    // Down the rows from..to: f(tile, index of the first lane, lanes) for each vector of channels, with a tile of its own that
    // start(channel) makes and stop(tile, channel) takes. Few tiles stay in registers, more in the first-level cache; either way
    // memory is read in order.
    template <class Start, class F, class Stop>
    TRIMTAB_INLINE void walk(int64_t from, int64_t to, Start start, F f, Stop stop) const {
        using Tile = decltype(start(0));
        const int64_t whole = channels / kLanes, rest = channels % kLanes;
        if (rest == 0 && whole == 4) return walk_few<4>(from, to, start, f, stop);
        if (rest == 0 && whole == 2) return walk_few<2>(from, to, start, f, stop);
        if (rest == 0 && whole == 1) return walk_few<1>(from, to, start, f, stop);
        Buffer<Tile> tiles(whole + 1);
        for (int64_t v = 0; v * kLanes < channels; v++) tiles[v] = start(v * kLanes);
        for (int64_t r = from; r < to; r++) {
            int64_t at = r * channels;
            for (int64_t v = 0; v < whole; v++, at += kLanes) f(tiles[v], at, kLanes);
            if (rest) f(tiles[whole], at, int(rest));
        }
        for (int64_t v = 0; v * kLanes < channels; v++) stop(tiles[v], v * kLanes);
    }
    template <int V, class Start, class F, class Stop>
    TRIMTAB_INLINE void walk_few(int64_t from, int64_t to, Start start, F f, Stop stop) const {
        decltype(start(0)) tiles[V];
        for (int v = 0; v < V; v++) tiles[v] = start(v * kLanes);
        for (int64_t r = from; r < to; r++)
            for (int v = 0; v < V; v++) f(tiles[v], (r * V + v) * kLanes, kLanes);
        for (int v = 0; v < V; v++) stop(tiles[v], v * kLanes);
    }

    void moments(const T* x, int64_t begin, int64_t end, ColumnMoments& m) const {
        struct Tile {
            Vec origin, s, q;
        };
        for (int64_t from = begin; from < end; from += height(1)) {
            const int64_t to = min(end, from + height(1));
            walk(
                from, to, [&](int64_t c) { return Tile{m.origin.at(c), Vec{}, Vec{}}; },
                [&](Tile& t, int64_t at, int n) __attribute__((always_inline)) {
                    prefetch(x + at + kAhead);
                    Vec d = load(x + at, n) - t.origin;
                    t.s += d;
                    t.q += d * d;
                },
                [&](Tile& t, int64_t c) { m.first.put(c, t.s), m.second.put(c, t.q); });
            m.merge(double(to - from));
        }
    }

    // The blocks go backwards, to meet what the caches still hold of the walk before.
    template <bool past> void forward(const T* x, T* y, int64_t begin, int64_t end, const ColumnAffine& a) const {
        struct Tile {
            Vec center, scale, shift;
        };
        const int64_t h = height(1);
        for (int64_t block = (end - begin + h - 1) / h - 1; block >= 0; block--)
            walk(
                begin + block * h, min(end, begin + (block + 1) * h),
                [&](int64_t c) { return Tile{a.center.at(c), a.scale.at(c), a.shift.at(c)}; },
                [&](Tile& t, int64_t at, int n) __attribute__((always_inline)) {
                    prefetch(x + at + kAhead);
                    epilogue.prefetch(at + kAhead);
                    Vec z = (load(x + at, n) - t.center) * t.scale + t.shift;
                    put<past>(y + at, epilogue.forward(z, at, n), n);
                },
                [](Tile&, int64_t) {});
    }

    // total += sum e and product += sum e (x - center), e the gradient behind the epilogue.
    void sums(const T* x, const T* dy, int64_t begin, int64_t end, const ColumnAffine& a, double* total, double* product) const {
        struct Tile {
            Vec center, scale, shift, s, q;
        };
        const int64_t h = height(2);
        for (int64_t from = begin; from < end; from += h)
            walk(
                from, min(end, from + h),
                [&](int64_t c) { return Tile{a.center.at(c), a.scale.at(c), a.shift.at(c), Vec{}, Vec{}}; },
                [&](Tile& t, int64_t at, int n) __attribute__((always_inline)) {
                    prefetch(x + at + kAhead);
                    prefetch(dy + at + kAhead);
                    epilogue.prefetch(at + kAhead);
                    Vec d = load(x + at, n) - t.center;
                    Vec e = epilogue.backward(d * t.scale + t.shift, load(dy + at, n), at, n);
                    t.s += e;
                    t.q += e * d;
                },
                [&](Tile& t, int64_t c) {
                    const int64_t lanes = min<int64_t>(kLanes, channels - c);
                    float of[2 * kLanes];  // adding lane by lane from registers would not be vectorized
                    store(of, t.s, kLanes), store(of + kLanes, t.q, kLanes);
                    for (int64_t i = 0; i < lanes; i++) total[c + i] += of[i], product[c + i] += of[kLanes + i];
                });
    }

    template <bool past>
    void backward(const T* x, const T* dy, T* dx, T* dresidual, int64_t begin, int64_t end, const ColumnAffine& a) const {
        struct Tile {
            Vec center, scale, shift, slope, offset;
        };
        const int64_t h = height(2);
        for (int64_t block = (end - begin + h - 1) / h - 1; block >= 0; block--)
            walk(
                begin + block * h, min(end, begin + (block + 1) * h),
                [&](int64_t c) { return Tile{a.center.at(c), a.scale.at(c), a.shift.at(c), a.slope.at(c), a.offset.at(c)}; },
                [&](Tile& t, int64_t at, int n) __attribute__((always_inline)) {
                    prefetch(x + at + kAhead);
                    prefetch(dy + at + kAhead);
                    epilogue.prefetch(at + kAhead);
                    Vec d = load(x + at, n) - t.center;
                    Vec e = epilogue.backward(d * t.scale + t.shift, load(dy + at, n), at, n);
                    if (!plain && dresidual) put<past>(dresidual + at, e, n);
                    put<past>(dx + at, e * t.scale + (d * t.slope + t.offset), n);
                },
                [](Tile&, int64_t) {});
    }
};

}  // namespace trimtab::TRIMTAB_SET
