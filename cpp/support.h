// What all kernels share that is neither arithmetic nor statistics: threads, caches, and the choice of a variant.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "vec.h"

namespace trimtab {

// Fresh large tensors are not mapped yet: writing to them for the first time costs one page fault per 4 KB, more than any
// kernel here. With pages of 2 MB it costs a fraction. A hint that may be ignored; cheap where memory is mapped already.
void ask_for_large_pages(void* p, int64_t bytes);

}  // namespace trimtab

namespace trimtab::TRIMTAB_SET {

// What a loop may count on finding again in the second-level cache.
constexpr int64_t kSecondLevel = 512 << 10;

// Outputs larger than this are written past the caches: several times the second level, a share of the third.
constexpr int64_t kPastCaches = 8 << 20;

inline bool aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// Whether `entries` of T, written in runs of `run`, go past the caches: every full vector of every run must be aligned.
template <class T> bool goes_past_caches(int64_t entries, int64_t run, const void* p, const void* q = nullptr) {
    return entries * int64_t(sizeof(T)) > kPastCaches && run % kLanes == 0 && aligned(p, 64) && aligned(q, 64);
}

// Room for `count` zeros, on a cache line of its own.
template <class T> class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);
    static constexpr std::align_val_t kLine{64};
    T* first;

  public:
    explicit Buffer(int64_t count) : first(static_cast<T*>(::operator new(size_t(count) * sizeof(T), kLine))) {
        std::memset(static_cast<void*>(first), 0, size_t(count) * sizeof(T));
    }
    ~Buffer() { ::operator delete(first, kLine); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    TRIMTAB_INLINE operator T*() { return first; }
    TRIMTAB_INLINE operator const T*() const { return first; }
};

#ifdef _OPENMP
inline int thread_number() { return omp_get_thread_num(); }
inline int thread_count() { return omp_get_num_threads(); }
#else
inline int thread_number() { return 0; }
inline int thread_count() { return 1; }
#endif

// The part of 0..count that falls to this thread.
struct Share {
    int64_t begin, end;
    explicit Share(int64_t count)
        : begin(count * thread_number() / thread_count()), end(count * (thread_number() + 1) / thread_count()) {}
};

// Many tensors as pieces of nearly equal size, dealt to the threads in order: tensors differ by factors of thousands.
struct Pieces {
    struct Piece {
        int64_t tensor, begin, end;
    };
    static constexpr int64_t kPiece = 1 << 14;
    int64_t count;
    Buffer<Piece> list;

    Pieces(const int64_t* counts, int64_t tensors) : count(number(counts, tensors)), list(count) {
        int64_t i = 0;
        for (int64_t t = 0; t < tensors; t++)
            for (int64_t at = 0; at < counts[t]; at += kPiece) list[i++] = {t, at, min<int64_t>(at + kPiece, counts[t])};
    }
    static int64_t number(const int64_t* counts, int64_t tensors) {
        int64_t all = 0;
        for (int64_t t = 0; t < tensors; t++) all += (counts[t] + kPiece - 1) / kPiece;
        return all;
    }
    TRIMTAB_INLINE const Piece& operator[](int64_t i) const { return list[i]; }
};

// f(constant a, constant b) for two conditions known when the kernel is called.
template <class F> void choose(bool a, bool b, F f) {
    using yes = std::true_type;
    using no = std::false_type;
    a ? (b ? f(yes{}, yes{}) : f(yes{}, no{})) : (b ? f(no{}, yes{}) : f(no{}, no{}));
}

}  // namespace trimtab::TRIMTAB_SET
