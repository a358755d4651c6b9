// All kernels for one instruction set. CMake compiles this file once for each, with TRIMTAB_SET naming the namespace.
#include "channel_norm.h"
#include "cross_entropy.h"
#include "group_norm.h"
#include "optimizer.h"
#include "penalty.h"
#include "response_norm.h"
#include "row_norm.h"

namespace trimtab::TRIMTAB_SET {

namespace {

template <class T>
void dropout_of(const void* x_, void* y_, int64_t count, double p, uint64_t seed, int threads) {
    const T* x = static_cast<const T*>(x_);
    T* y = static_cast<T*>(y_);
    const Dropout dropout(p, seed);
    ask_for_large_pages(y, count * sizeof(T));
    choose(goes_past_caches<T>(count, kLanes, y), true, [&](auto past, auto) {
#pragma omp parallel num_threads(threads)
        {
            const Share share((count + 63) / 64);
            const int64_t begin = share.begin * 64, end = min(count, share.end * 64);
            each(end - begin, [&](int64_t k, int n) __attribute__((always_inline)) {
                prefetch_near(x + begin + k + 512);
                put<decltype(past)::value>(y + begin + k, dropout(load(x + begin + k, n), begin + k), n);
            });
            if (decltype(past)::value) fence();
        }
    });
}

}  // namespace

// One entry of the table: the kernel for either type of entries.
#define TRIMTAB_FOR_TYPES(kernel, Arguments)                       \
    [](const Arguments& a, Type type) {                            \
        type == Type::float32 ? kernel<float>(a) : kernel<bfloat16>(a); \
    }

// Constant data: to read it runs none of this object's code, which the machine may not have the instructions for.
extern const Table table;
constexpr Table table{
    compiled_here(),
    TRIMTAB_FOR_TYPES(channel_norm_forward_of, ChannelNorm),
    TRIMTAB_FOR_TYPES(channel_norm_backward_of, ChannelNorm),
    TRIMTAB_FOR_TYPES(row_norm_forward_of, RowNorm),
    TRIMTAB_FOR_TYPES(row_norm_backward_of, RowNorm),
    TRIMTAB_FOR_TYPES(group_norm_forward_of, GroupNorm),
    TRIMTAB_FOR_TYPES(group_norm_backward_of, GroupNorm),
    TRIMTAB_FOR_TYPES(response_norm_forward_of, ResponseNorm),
    TRIMTAB_FOR_TYPES(response_norm_backward_of, ResponseNorm),
    TRIMTAB_FOR_TYPES(cross_entropy_forward_of, CrossEntropy),
    TRIMTAB_FOR_TYPES(cross_entropy_backward_of, CrossEntropy),
    penalty_of,
    optimizer_step_of,
    [](const void* x, void* y, int64_t count, double p, uint64_t seed, int threads, Type type) {
        type == Type::float32 ? dropout_of<float>(x, y, count, p, seed, threads)
                              : dropout_of<bfloat16>(x, y, count, p, seed, threads);
    },
};

}  // namespace trimtab::TRIMTAB_SET
