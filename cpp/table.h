// What kernels are called with, and the table in which each instruction set's object hands them out.
#pragma once

#include <cstdint>

#include "instruction_set.h"

namespace trimtab {

enum class Activation { none, relu, gelu, gelu_tanh, silu };

// y = dropout(activation(z + residual)) behind a norm; the default does nothing.
struct After {
    Activation activation = Activation::none;
    const void* residual = nullptr;
    double dropout_p = 0;
    uint64_t seed = 0;

    __attribute__((always_inline)) bool nothing() const { return activation == Activation::none && !residual && dropout_p == 0; }
};

// BatchNorm: one mean and deviation for each channel. Pointers may be null where a comment says "or none".
// The tensor is [samples, channels, plane], or [samples, channels] with `plane` = 1 (channels_last and flat inputs).
struct ChannelNorm {
    const void* x;
    const float *weight, *bias;  // or none
    void* y;
    double *mean, *rstd;  // [channels]: written with batch statistics, else read
    double* variance;     // [channels], biased: written with batch statistics
    int64_t samples, channels, plane;
    double eps;
    bool batch_statistics;
    After after;
    int threads;
    // backward
    const void* dy;
    void *dx, *dresidual;  // dresidual or none
    float *dweight, *dbias;
};

// LayerNorm and RMSNorm: one mean and deviation for each row of `columns` entries;
// h = dropout(x) + residual, y = after(norm(h)).
struct RowNorm {
    const void *x, *residual;  // residual or none
    double dropout_p;
    uint64_t seed;
    const float *weight, *bias;  // [columns], or none
    void *y, *h;                 // h or none
    float *mean, *rstd;          // [rows]
    int64_t rows, columns;
    double eps;
    bool centered;  // false: RMSNorm
    After after;
    int threads;
    // backward
    bool h_given;  // x is h: what stands before the norm is not done again, only undone on the gradient
    const void *dy, *dh;  // dh: what arrives at h besides, or none
    void *dx, *dresidual, *dafter;  // or none but dx
    float *dweight, *dbias;
};

// GroupNorm and InstanceNorm: [samples, channels, plane], one mean and deviation for each sample and group of channels.
struct GroupNorm {
    const void* x;
    const float *weight, *bias;  // [channels], or none
    void* y;
    float *mean, *rstd;  // [samples, groups]
    int64_t samples, channels, plane, groups;
    bool channels_last;  // [samples, plane, channels] in memory
    double eps;
    After after;
    int threads;
    // backward
    const void* dy;
    void *dx, *dresidual;
    float *dweight, *dbias;
};

// Across channels of [samples, channels, plane]: y = x (k + alpha sum x^2)^-beta, the sum over `size` channels (the caller has
// divided alpha by size where that is meant).
struct ResponseNorm {
    const void* x;
    void* y;
    int64_t samples, channels, plane, size;
    double alpha, beta, k;
    int threads;
    const void* dy;
    void* dx;
};

// Rows of logits [rows, classes] against one class each: see cross_entropy.h.
struct CrossEntropy {
    const void* x;
    const int64_t* target;  // [rows]
    const float* weight;    // [classes], or none
    float *loss, *lse;      // [rows]; lse is read on the way back
    int64_t rows, classes, ignore;
    double smoothing;
    int threads;
    // backward
    const float* dloss;  // [rows]
    void* dx;
};

// gradient += l1 sign(w) + l2 w, tensor by tensor.
struct Penalty {
    const float* const* weights;
    float* const* gradients;
    const int64_t* counts;
    int64_t tensors;
    double l1, l2;
    double *absolute, *squares;  // the sums over all tensors
    int threads;
};

// One step of an optimizer over many tensors: see optimizer.h for what the numbers mean in which rule.
enum class Rule { sgd, adagrad, adadelta, rmsprop, adam };

struct OptimizerStep {
    Rule rule;
    float* const* weights;
    const float* const* gradients;
    float* const* states[3];  // the first `slots` of them
    int slots;
    const int64_t* counts;
    int64_t tensors;
    double sign = 1, coupled = 0, shrink = 1, rate = 0;
    double momentum = 0, gain = 0, look = 0;
    double alpha = 0, rho = 0, rho_steps = 0, beta1 = 0, beta2 = 0, eps = 0, scale = 1;
    double inside = 0, centered = 0;  // 1 for yes
    int64_t* masked;  // entries left as they were
    int threads;
};

enum class Type { float32, bfloat16 };

struct Table {
    InstructionSet set;
    void (*channel_norm_forward)(const ChannelNorm&, Type);
    void (*channel_norm_backward)(const ChannelNorm&, Type);
    void (*row_norm_forward)(const RowNorm&, Type);
    void (*row_norm_backward)(const RowNorm&, Type);
    void (*group_norm_forward)(const GroupNorm&, Type);
    void (*group_norm_backward)(const GroupNorm&, Type);
    void (*response_norm_forward)(const ResponseNorm&, Type);
    void (*response_norm_backward)(const ResponseNorm&, Type);
    void (*cross_entropy_forward)(const CrossEntropy&, Type);
    void (*cross_entropy_backward)(const CrossEntropy&, Type);
    void (*penalty)(const Penalty&);
    void (*optimizer_step)(const OptimizerStep&);
    void (*dropout)(const void* x, void* y, int64_t count, double p, uint64_t seed, int threads, Type);
};

}  // namespace trimtab
