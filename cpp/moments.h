// Mean and variance of a stream of pieces, merged by Chan's formula: no cancellation however far the mean is from zero.
#pragma once

#include <cmath>

#include "vec.h"

namespace trimtab::TRIMTAB_SET {

struct Moments {
    double count = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean

    // a piece of n entries, whose sum and sum of squares about `shift` are s and q
    void merge(double n, double shift, double s, double q) {
        double delta = shift + s / n - mean, all = count + n;
        squares += q - s * s / n + delta * delta * count * n / all;
        mean += delta * n / all;
        count = all;
    }
    void merge(const Moments& other) {
        if (other.count == 0) return;
        double delta = other.mean - mean, all = count + other.count;
        squares += other.squares + delta * delta * count * other.count / all;
        mean += delta * other.count / all;
        count = all;
    }
    double variance() const { return squares > 0 ? squares / count : squares < 0 ? 0 : squares / count; }
};

// y = (x - center) * scale + shift. The mean is a double: its rounding to `center` is made good in `shift`.
struct Affine {
    float center, scale, shift;
    Affine(double mean, double rstd, double weight, double bias)
        : center(float(mean)), scale(float(rstd * weight)), shift(float(bias - (mean - center) * rstd * weight)) {}
    TRIMTAB_INLINE Vec operator()(Vec x) const { return (x - center) * scale + shift; }
};

}  // namespace trimtab::TRIMTAB_SET
