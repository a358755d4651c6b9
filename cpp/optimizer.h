// One step of an optimizer over many tensors: parameters, gradients and state in one pass.
//
// Entries whose gradient is not finite keep their weight and their state, and are counted.
#pragma once

#include "support.h"
#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

// What adaptive methods divide by: the root of a mean square, with eps inside or outside. Gives 1 / root, or 0 for a root of 0.
struct Root {
    Vec scale, square_scale, eps;
    bool inside;

    explicit Root(const OptimizerStep& a)
        : scale(splat(float(a.scale))), square_scale(splat(float(a.scale * a.scale))), eps(splat(float(a.eps))), inside(a.inside != 0) {}

    TRIMTAB_INLINE Vec inverse(Vec square) const {
        const Vec root = inside ? square_root(square * square_scale + eps) : square_root(square) * scale + eps;
        return root == 0 ? root : 1.f / root;
    }
};

// v <- momentum v + gain d; the direction of the step is v, or with Nesterov's look ahead look d + momentum v.
struct Momentum {
    Vec momentum, gain, look;
    bool ahead;

    explicit Momentum(const OptimizerStep& a)
        : momentum(splat(float(a.momentum))), gain(splat(float(a.gain))), look(splat(float(a.look))), ahead(a.look != 0) {}

    TRIMTAB_INLINE Vec operator()(Vec d, Vec& v) const {
        v = momentum * v + gain * d;
        return ahead ? look * d + momentum * v : v;
    }
};

// w <- shrink w - rate f(g, state), for every entry of every tensor. `Slots` is the number of state tensors of each parameter;
// f(g, s) changes the vectors s[0] .. s[Slots - 1] and gives the direction.
template <int Slots, class F> void step_of(const OptimizerStep& a, F f) {
    constexpr int64_t kAhead = 256;
    const Pieces pieces(a.counts, a.tensors);
    const Vec sign = splat(float(a.sign)), coupled = splat(float(a.coupled)), shrink = splat(float(a.shrink)),
              rate = splat(float(a.rate));
    int64_t masked = 0;

#pragma omp parallel for schedule(static) num_threads(a.threads) reduction(+ : masked)
    for (int64_t i = 0; i < pieces.count; i++) {
        const Pieces::Piece& piece = pieces[i];
        float* weights = a.weights[piece.tensor] + piece.begin;
        const float* gradients = a.gradients[piece.tensor] + piece.begin;
        float* states[Slots + 1];
        for (int s = 0; s < Slots; s++) states[s] = a.states[s][piece.tensor] + piece.begin;
        Ints bad = {};
        each(piece.end - piece.begin, [&](int64_t k, int n) __attribute__((always_inline)) {
            prefetch(weights + k + kAhead);
            prefetch(gradients + k + kAhead);
            for (int s = 0; s < Slots; s++) prefetch(states[s] + k + kAhead);
            const Vec w = load(weights + k, n), given = load(gradients + k, n);
            const Ints finite = (bit_cast<Ints>(given) & 0x7f800000) != 0x7f800000;
            bad -= ~finite;
            Vec before[Slots + 1], state[Slots + 1];
            for (int s = 0; s < Slots; s++) before[s] = state[s] = load(states[s] + k, n);
            const Vec direction = f(sign * given + coupled * w, state);
            store(weights + k, finite ? shrink * w - rate * direction : w, n);
            for (int s = 0; s < Slots; s++) store(states[s] + k, finite ? state[s] : before[s], n);
        });
        for (int lane = 0; lane < kLanes; lane++) masked += bad[lane];
    }
    *a.masked = masked;
}

inline void sgd_step(const OptimizerStep& a) {
    if (a.slots == 0) return step_of<0>(a, [](Vec g, Vec*) __attribute__((always_inline)) { return g; });
    const Momentum momentum(a);
    step_of<1>(a, [&](Vec g, Vec* s) __attribute__((always_inline)) { return momentum(g, s[0]); });
}

inline void adagrad_step(const OptimizerStep& a) {
    const Root root(a);
    step_of<1>(a, [&](Vec g, Vec* s) __attribute__((always_inline)) {
        s[0] += g * g;
        return g * root.inverse(s[0]);
    });
}

inline void adadelta_step(const OptimizerStep& a) {
    const Vec rho = splat(float(a.rho)), rho_steps = splat(float(a.rho_steps)), eps = splat(float(a.eps));
    const Vec part = splat(float(1 - a.rho)), part_steps = splat(float(1 - a.rho_steps));
    step_of<2>(a, [&](Vec g, Vec* s) __attribute__((always_inline)) {
        s[0] = rho * s[0] + part * (g * g);
        const Vec root = square_root(s[0] + eps);
        const Vec step = (root == 0 ? root : square_root(s[1] + eps) / root) * g;
        s[1] = rho_steps * s[1] + part_steps * (step * step);
        return step;
    });
}

// Slots: mean square, then the mean if centered, then the momentum buffer if there is one.
template <bool centered, bool moving> void rmsprop_step(const OptimizerStep& a) {
    const Root root(a);
    const Momentum momentum(a);
    const Vec alpha = splat(float(a.alpha)), part = splat(float(1 - a.alpha));
    step_of<1 + centered + moving>(a, [&](Vec g, Vec* s) __attribute__((always_inline)) {
        s[0] = alpha * s[0] + part * (g * g);
        Vec square = s[0];
        if (centered) {
            s[1] += part * (g - s[1]);
            square = square - s[1] * s[1];
            square = square < 0 ? square * 0.f : square;  // rounding
        }
        const Vec direction = g * root.inverse(square);
        return moving ? momentum(direction, s[1 + centered]) : direction;
    });
}

// Slots: mean, mean square, and the largest mean square for amsgrad.
template <bool largest> void adam_step(const OptimizerStep& a) {
    const Root root(a);
    const Vec beta2 = splat(float(a.beta2)), part1 = splat(float(1 - a.beta1)), part2 = splat(float(1 - a.beta2));
    step_of<2 + largest>(a, [&](Vec g, Vec* s) __attribute__((always_inline)) {
        s[0] += part1 * (g - s[0]);
        s[1] = beta2 * s[1] + part2 * (g * g);
        Vec square = s[1];
        if (largest) square = s[2] = s[2] > square ? s[2] : square;
        return s[0] * root.inverse(square);
    });
}

inline void optimizer_step_of(const OptimizerStep& a) {
    const bool centered = a.centered != 0, moving = a.momentum != 0;
    switch (a.rule) {
        case Rule::sgd: return sgd_step(a);
        case Rule::adagrad: return adagrad_step(a);
        case Rule::adadelta: return adadelta_step(a);
        case Rule::adam: return a.slots == 3 ? adam_step<true>(a) : adam_step<false>(a);
        case Rule::rmsprop:
            return choose(centered, moving, [&](auto c, auto m) { rmsprop_step<decltype(c)::value, decltype(m)::value>(a); });
    }
}

}  // namespace trimtab::TRIMTAB_SET
