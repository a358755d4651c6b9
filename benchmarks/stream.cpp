// The floor under any kernel: the time to stream its bytes. R input arrays are read and W output arrays written, all of the
// same size, with ordinary stores or with stores past the caches, without software prefetch, with a near or with a far one. Built
// and called by benchmarks/norms.py.
#include <immintrin.h>

#include <cstdint>

namespace {

template <int R, int W, bool past, int ahead> void run(const float* const* in, float* const* out, int64_t count) {
    __m512 all = _mm512_setzero_ps();
    for (int64_t k = 0; k + 16 <= count; k += 16) {
        __m512 v = _mm512_setzero_ps();
        for (int r = 0; r < R; r++) {
            if (ahead == 1) _mm_prefetch(reinterpret_cast<const char*>(in[r] + k + 512), _MM_HINT_T0);
            if (ahead == 2) _mm_prefetch(reinterpret_cast<const char*>(in[r] + k + 2048), _MM_HINT_T1);
            v = _mm512_add_ps(v, _mm512_loadu_ps(in[r] + k));
        }
        if (W == 0) all = _mm512_add_ps(all, v);
        for (int w = 0; w < W; w++) past ? _mm512_stream_ps(out[w] + k, v) : _mm512_storeu_ps(out[w] + k, v);
    }
    if (past) _mm_sfence();
    if (W == 0) {  // the sum must be of use to somebody
        static volatile float sink;
        sink = _mm512_reduce_add_ps(all);
    }
}

template <int R, int W> void variant(const float* const* in, float* const* out, int64_t count, int which) {
    switch (which) {
        case 0: return run<R, W, false, 0>(in, out, count);
        case 1: return run<R, W, false, 1>(in, out, count);
        case 2: return run<R, W, false, 2>(in, out, count);
        case 3: return run<R, W, true, 0>(in, out, count);
        case 4: return run<R, W, true, 1>(in, out, count);
        default: return run<R, W, true, 2>(in, out, count);
    }
}

}  // namespace

extern "C" void stream(const float* const* in, int reads, float* const* out, int writes, int64_t count, int which) {
    if (writes == 0) return variant<1, 0>(in, out, count, which);
    if (writes == 1) {
        if (reads == 1) return variant<1, 1>(in, out, count, which);
        if (reads == 2) return variant<2, 1>(in, out, count, which);
        return variant<3, 1>(in, out, count, which);
    }
    if (reads == 2) return variant<2, 2>(in, out, count, which);
    return variant<3, 2>(in, out, count, which);
}
