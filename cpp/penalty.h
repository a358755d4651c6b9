// The penalty l1 sum |w| + l2 / 2 sum w^2 over many tensors, and its gradient added to theirs, in one pass.
#pragma once

#include <algorithm>
#include <vector>

#include "support.h"
#include "table.h"
#include "vec.h"

namespace trimtab::TRIMTAB_SET {

inline void penalty_of(const Penalty& a) {
    // Pieces of equal size, dealt to the threads in order: tensors differ by factors of thousands.
    constexpr int64_t kPiece = 1 << 14;
    struct Piece {
        int64_t tensor, begin, end;
    };
    std::vector<Piece> pieces;
    for (int64_t t = 0; t < a.tensors; t++)
        for (int64_t at = 0; at < a.counts[t]; at += kPiece) pieces.push_back({t, at, std::min(at + kPiece, a.counts[t])});
    const float l1 = float(a.l1), l2 = float(a.l2);
    double absolute = 0, squares = 0;

#pragma omp parallel for schedule(static) num_threads(a.threads) reduction(+ : absolute, squares)
    for (int64_t i = 0; i < int64_t(pieces.size()); i++) {
        const Piece& piece = pieces[i];
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
