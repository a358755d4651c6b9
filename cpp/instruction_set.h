// The instruction sets that CPU kernels are compiled for, and which of them this machine can run.
//
// How kernels hang on this: one source, kernels.cpp, becomes one object per instruction set (CMake: an OBJECT library
// each, compiled with exactly the flags that `can_run` asks the processor for), and each object hands out one table of
// function pointers together with its own `compiled_here()`. When the module loads, it takes the first table, best set
// first, whose set the machine can run. No kernel asks again, no call goes through a resolver, and one wheel serves
// every machine.
//
// What must not happen: an inline function of a standard header is compiled for AVX-512 in one object and for any machine in
// another, the linker keeps one of them for all, and an older machine dies of an instruction that it lacks. Hence
//
//   - only the kernel sources get the extra flags, and all that they define lies in the namespace of their set: own Buffer,
//     min and max instead of the standard library's containers and algorithms, whose functions are inlined or not as a
//     compiler likes; nothing of such an object runs before its set was asked for (a table is constant data);
//   - the build checks that: it stops before linking if an object defines anything else (own_symbols.py);
//   - the objects are linked from the least set to the best: of two of a name a linker keeps the first.
#pragma once

#include <initializer_list>

namespace trimtab {

enum class InstructionSet { baseline, neon, avx2, avx512, avx512bf16 };

constexpr const char* name(InstructionSet set) {
    constexpr const char* names[] = {"baseline", "neon", "avx2", "avx512", "avx512bf16"};
    return names[static_cast<int>(set)];
}

// The set that the object including this header is compiled for. `static`: it differs from object to object.
// avx2 is -mavx2 -mfma, avx512 adds -mavx512{f,bw,cd,dq,vl}, avx512bf16 the instruction that rounds to bfloat16.
static constexpr InstructionSet compiled_here() {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX2__) && defined(__FMA__)
#if defined(__AVX512BF16__)
    return InstructionSet::avx512bf16;
#else
    return InstructionSet::avx512;
#endif
#elif defined(__AVX2__) && defined(__FMA__)
    return InstructionSet::avx2;
#elif defined(__ARM_NEON)
    return InstructionSet::neon;
#else
    return InstructionSet::baseline;
#endif
}

// Whether this machine can run objects of a set. On x86 the builtin also asks whether the operating system saves the
// wide registers, which the processor's own feature bits do not say.
inline bool can_run(InstructionSet set) {
    if (set == InstructionSet::baseline) return true;
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    if (set == InstructionSet::neon || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    if (set == InstructionSet::avx2) return true;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
    return wide && (set == InstructionSet::avx512 || __builtin_cpu_supports("avx512bf16"));
#elif defined(__ARM_NEON)
    return set == InstructionSet::neon;
#else
    return false;
#endif
}

}  // namespace trimtab
