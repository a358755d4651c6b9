// The penalty l1 sum |w| + l2 / 2 sum w^2 over many tensors, and its gradient added to theirs, in one pass.
#pragma once

#include "support.h"
#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

inline void penalty_of(const Penalty& a) {
    const Pieces pieces(a.counts, a.tensors);
    const float l1 = float(a.l1), l2 = float(a.l2);
    double absolute = 0, squares = 0;

#pragma omp parallel for schedule(static) num_threads(a.threads) reduction(+ : absolute, squares)
    for (int64_t i = 0; i < pieces.count; i++) {
        const Pieces::Piece& piece = pieces[i];
        const float* w = a.weights[piece.tensor] + piece.begin;
        float* gradient = a.gradients[piece.tensor] + piece.begin;
        Vec s[4] = {}, q[4] = {};
        each_in_turn(piece.end - piece.begin, [&](int64_t k, int n, int turn) __attribute__((always_inline)) {
            prefetch(w + k + 2048);
            prefetch(gradient + k + 2048);
            const Vec v = load(w + k, n);
            s[turn] += v < 0 ? -v : v;
            q[turn] += v * v;
            const Vec sign = v > 0 ? splat(l1) : v < 0 ? splat(-l1) : v * 0.f;  // a NaN stays one
            store(gradient + k, load(gradient + k, n) + sign + v * l2, n);
        });
        absolute += sum((s[0] + s[1]) + (s[2] + s[3]));
        squares += sum((q[0] + q[1]) + (q[2] + q[3]));
    }
    *a.absolute = absolute;
    *a.squares = squares;
}

}  // namespace trimtab::TRIMTAB_SET
