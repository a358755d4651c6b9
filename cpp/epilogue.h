// What a norm kernel does in the same pass besides the norm: y = dropout(activation(z + residual)).
#pragma once

#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

// Dropout without a stored mask: entry i is kept if a hash of (i, seed) reaches a threshold, forward and backward alike.
// The seed gives the start of the counter and the multiplier of the first round: were the rounds the same for all seeds, the
// masks of two of them would be shifts of each other (tests/nn/test_masks.py).
struct Dropout {
    uint32_t threshold = 0, start = 0, multiplier = 0;
    float scale = 1;

    Dropout() = default;
    Dropout(double p, uint64_t seed) {
        seed += 0x9e3779b97f4a7c15;  // splitmix64
        seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
        seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
        seed ^= seed >> 31;
        start = uint32_t(seed);
        multiplier = (uint32_t(seed >> 32) & 0x7fffffffu) | 0x40000001u;  // odd, and not small
        threshold = uint32_t(min(p * 4294967296.0, 4294967295.0));
        scale = p < 1 ? float(1 / (1 - p)) : 0;
    }

    TRIMTAB_INLINE Vec operator()(Vec v, int64_t i) const {
        constexpr uint32_t kStep = 0x9e3779b9;
        Bits h = lane_numbers() * kStep + (start + uint32_t(i) * kStep + uint32_t(uint64_t(i) >> 32) * 0x85ebca6bu);
        h = (h ^ (h >> 16)) * multiplier;
        h = (h ^ (h >> 15)) * 0x735a2d97u;
        return h >= threshold ? v * scale : Vec{};
    }
};

// Phi(z) and phi(z) of the normal distribution, from one exponential: Phi(-t) = e^(-t^2/2) erfcx(t / sqrt 2) / 2, and
// erfcx is a fit in u = 1 / (1 + 0.3 t / sqrt 2) with a relative error of 2e-8 for 0 <= t / sqrt 2 <= 10.
struct Normal {
    Vec below, density;
    TRIMTAB_INLINE explicit Normal(Vec z) {
        Vec t = z < 0 ? -z : z;
        t = t > 14.f ? splat(14.f) : t;
        Vec bell = exp(t * t * -0.5f);
        Vec u = 1.f / (1.f + t * 0.212132034f);
        Vec tail = u * -1.295233521e-1f + 4.855654819e-1f;
        tail = tail * u - 5.122830106e-1f;
        tail = tail * u + 5.477259588e-1f;
        tail = tail * u - 9.465506232e-2f;
        tail = tail * u + 2.149280253e-1f;
        tail = tail * u + 1.483386308e-1f;
        tail = tail * u + 1.707153086e-1f;
        tail = tail * u + 1.691880000e-1f;
        tail = tail * u * bell * 0.5f;
        below = z < 0 ? tail : 1.f - tail;
        density = bell * 0.398942280f;
    }
};

TRIMTAB_INLINE Vec sigmoid(Vec z) { return 1.f / (1.f + exp(-z)); }

constexpr float kTanhScale = 1.595769122f;  // 2 sqrt(2 / pi): gelu(z) ~ z sigmoid(kTanhScale (z + 0.044715 z^3))

TRIMTAB_INLINE Vec activate(Activation activation, Vec z) {
    switch (activation) {
        case Activation::none: return z;
        case Activation::relu: return z < 0 ? Vec{} : z;  // this way round a NaN passes
        case Activation::gelu: return z * Normal(z).below;
        case Activation::gelu_tanh: return z * sigmoid(kTanhScale * (z + 0.044715f * z * z * z));
        case Activation::silu: return z * sigmoid(z);
    }
    return z;
}

// gradient * d activation(z) / dz
TRIMTAB_INLINE Vec back_through(Activation activation, Vec z, Vec gradient) {
    switch (activation) {
        case Activation::none: return gradient;
        case Activation::relu: return z <= 0 ? Vec{} : gradient;
        case Activation::gelu: {
            Normal normal(z);
            return gradient * (normal.below + z * normal.density);
        }
        case Activation::gelu_tanh: {
            Vec s = sigmoid(kTanhScale * (z + 0.044715f * z * z * z));
            return gradient * (s + z * s * (1.f - s) * kTanhScale * (1.f + 0.134145f * z * z));
        }
        case Activation::silu: {
            Vec s = sigmoid(z);
            return gradient * s * (1.f + z * (1.f - s));
        }
    }
    return gradient;
}

// The branches are the same for every vector of a call, so the processor predicts them; a template over all of them
// would be sixteen copies of each kernel for nothing that can be measured. `plain` is the one that pays: no epilogue.
template <class T, bool plain> struct Epilogue {
    Activation activation = Activation::none;
    const T* residual = nullptr;
    bool drops = false;
    Dropout dropout;

    explicit Epilogue(const After& after)
        : activation(after.activation),
          residual(static_cast<const T*>(after.residual)),
          drops(after.dropout_p > 0),
          dropout(after.dropout_p, after.seed) {}

    // z: n entries of the normalized tensor, i: the place of the first
    TRIMTAB_INLINE Vec forward(Vec z, int64_t i, int n) const {
        if constexpr (plain) return z;
        if (residual) z += load(residual + i, n);
        z = activate(activation, z);
        return drops ? dropout(z, i) : z;
    }

    // gradient by z + residual, from that by y
    TRIMTAB_INLINE Vec backward(Vec z, Vec gradient, int64_t i, int n) const {
        if constexpr (plain) return gradient;
        if (drops) gradient = dropout(gradient, i);
        if (activation == Activation::none) return gradient;
        if (residual) z += load(residual + i, n);
        return back_through(activation, z, gradient);
    }

    TRIMTAB_INLINE void prefetch(int64_t i) const {
        if constexpr (!plain)
            if (residual) TRIMTAB_SET::prefetch(residual + i);
    }
};

}  // namespace trimtab::TRIMTAB_SET
