// Runs every kernel of one instruction set on fixed inputs and prints what comes out, a line for each tensor.
//
// For machines that Python is not at hand for: test_cpu_extension.py builds it for 64-bit ARM, runs it under an emulator, and
// compares the numbers with those of this machine's baseline kernels, which every_kernel.py compares with formulas.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../cpp/table.h"

namespace trimtab {
void ask_for_large_pages(void*, int64_t) {}
namespace TRIMTAB_SET {
extern const Table table;
}
}  // namespace trimtab

using namespace trimtab;

// A kernel that is new in the table has to be called below: without its name here this does not compile.
const auto& [set, channel_norm_forward, channel_norm_backward, row_norm_forward, row_norm_backward, group_norm_forward,
             group_norm_backward, response_norm_forward, response_norm_backward, cross_entropy_forward, cross_entropy_backward,
             penalty, optimizer_step, dropout] = TRIMTAB_SET::table;

constexpr int kThreads = 2;
std::string what;  // is being run

// Entries of one type; fresh ones are NaN, so that one that a kernel leaves out is seen.
struct Tensor {
    Type type;
    std::vector<uint32_t> wide;
    std::vector<uint16_t> narrow;

    explicit Tensor(int64_t count, Type type = Type::float32)
        : type(type), wide(type == Type::float32 ? count : 0, 0x7fc00000), narrow(type == Type::float32 ? 0 : count, 0x7fc0) {}
    int64_t count() const { return int64_t(wide.size() + narrow.size()); }
    void* data() { return type == Type::float32 ? static_cast<void*>(wide.data()) : narrow.data(); }
    float* floats() { return static_cast<float*>(data()); }
    float at(int64_t i) const {
        const uint32_t bits = type == Type::float32 ? wide[i] : uint32_t(narrow[i]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    void show(const char* name) const {
        std::printf("%s %s:", what.c_str(), name);
        for (int64_t i = 0; i < count(); i++) std::printf(" %.9g", at(i));
        std::printf("\n");
    }
};

// Multiples of 1/32 from -2 to 2, which both types hold; positive: from 1/32 on.
Tensor given(int64_t count, Type type = Type::float32, bool positive = false) {
    static uint32_t state = 1;
    Tensor t(count, type);
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        const float value = positive ? float((state >> 16) % 64 + 1) / 32 : float((state >> 16) % 129) / 32 - 2;
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        if (type == Type::float32) t.wide[i] = bits;
        else t.narrow[i] = uint16_t(bits >> 16);
    }
    return t;
}

void show(const char* name, const std::vector<double>& values) {
    std::printf("%s %s:", what.c_str(), name);
    for (double value : values) std::printf(" %.9g", value);
    std::printf("\n");
}

void channel_norms(Type type, int64_t samples, int64_t channels, int64_t plane, After after, bool batch) {
    const int64_t count = samples * channels * plane;
    Tensor x = given(count, type), residual = given(count, type), dy = given(count, type), y(count, type), dx(count, type),
           dresidual(count, type), weight = given(channels), bias = given(channels), dweight(channels), dbias(channels);
    std::vector<double> mean(channels, 0.25), rstd(channels, 1.5), variance(channels, 0.4);
    after.residual = residual.data();
    ChannelNorm a{};
    a.x = x.data(), a.y = y.data(), a.weight = weight.floats(), a.bias = bias.floats(), a.dy = dy.data(), a.dx = dx.data();
    a.dresidual = dresidual.data(), a.dweight = dweight.floats(), a.dbias = dbias.floats();
    a.mean = mean.data(), a.rstd = rstd.data(), a.variance = variance.data(), a.eps = 1e-5, a.batch_statistics = batch;
    a.samples = samples, a.channels = channels, a.plane = plane, a.after = after, a.threads = kThreads;
    channel_norm_forward(a, type);
    channel_norm_backward(a, type);
    y.show("y"), dx.show("dx"), dresidual.show("dresidual"), dweight.show("dweight"), dbias.show("dbias");
    show("mean", mean), show("rstd", rstd);
}

void row_norms(Type type, int64_t rows, int64_t columns, After after, bool centered, bool plain) {
    const int64_t count = rows * columns;
    Tensor x = given(count, type), before = given(count, type), residual = given(count, type), dy = given(count, type),
           dh = given(count, type), y(count, type), h(count, type), dx(count, type), dresidual(count, type), dafter(count, type),
           weight = given(columns), bias = given(columns), mean(rows), rstd(rows), dweight(columns), dbias(columns);
    RowNorm a{};
    a.x = x.data(), a.y = y.data(), a.dy = dy.data(), a.dx = dx.data(), a.mean = mean.floats(), a.rstd = rstd.floats();
    a.weight = weight.floats(), a.bias = bias.floats(), a.dweight = dweight.floats(), a.dbias = dbias.floats();
    a.rows = rows, a.columns = columns, a.eps = 1e-5, a.centered = centered, a.threads = kThreads;
    if (!plain) {
        a.residual = before.data(), a.dropout_p = 0.25, a.seed = 7, a.h = h.data(), a.dh = dh.data();
        a.dresidual = dresidual.data(), a.dafter = dafter.data(), a.after = after, a.after.residual = residual.data();
    }
    row_norm_forward(a, type);
    row_norm_backward(a, type);
    y.show("y"), dx.show("dx"), rstd.show("rstd"), dweight.show("dweight"), dbias.show("dbias");
    if (!plain) h.show("h"), dresidual.show("dresidual"), dafter.show("dafter");
}

void group_norms(Type type, int64_t samples, int64_t channels, int64_t plane, int64_t groups, After after, bool last) {
    const int64_t count = samples * channels * plane;
    Tensor x = given(count, type), residual = given(count, type), dy = given(count, type), y(count, type), dx(count, type),
           dresidual(count, type), weight = given(channels), bias = given(channels), mean(samples * groups),
           rstd(samples * groups), dweight(channels), dbias(channels);
    after.residual = residual.data();
    GroupNorm a{};
    a.x = x.data(), a.y = y.data(), a.dy = dy.data(), a.dx = dx.data(), a.mean = mean.floats(), a.rstd = rstd.floats();
    a.weight = weight.floats(), a.bias = bias.floats(), a.dweight = dweight.floats(), a.dbias = dbias.floats();
    a.samples = samples, a.channels = channels, a.plane = plane, a.groups = groups, a.channels_last = last, a.eps = 1e-5;
    a.dresidual = dresidual.data(), a.after = after, a.threads = kThreads;
    group_norm_forward(a, type);
    group_norm_backward(a, type);
    y.show("y"), dx.show("dx"), dresidual.show("dresidual"), rstd.show("rstd"), dweight.show("dweight"), dbias.show("dbias");
}

void response_norms(Type type, int64_t samples, int64_t channels, int64_t plane, int64_t size, double beta) {
    const int64_t count = samples * channels * plane;
    Tensor x = given(count, type), dy = given(count, type), y(count, type), dx(count, type);
    const ResponseNorm a{x.data(), y.data(), samples, channels, plane, size, 0.2, beta, 1.5, kThreads, dy.data(), dx.data()};
    response_norm_forward(a, type);
    response_norm_backward(a, type);
    y.show("y"), dx.show("dx");
}

void cross_entropies(Type type, int64_t rows, int64_t classes, double smoothing, bool weighted) {
    Tensor x = given(rows * classes, type), dx(rows * classes, type), weight = given(classes, Type::float32, true), loss(rows),
           lse(rows), dloss = given(rows);
    std::vector<int64_t> target(rows);
    for (int64_t r = 0; r < rows; r++) target[r] = r == 2 ? -100 : r * 11 % std::max<int64_t>(classes, 1);
    const CrossEntropy a{x.data(),     target.data(), weighted ? weight.floats() : nullptr, loss.floats(), lse.floats(), rows, classes, -100,
                         smoothing,    kThreads,      dloss.floats(),                       dx.data()};
    cross_entropy_forward(a, type);
    cross_entropy_backward(a, type);
    loss.show("loss"), lse.show("lse"), dx.show("dx");
}

void dropouts(Type type, int64_t count) {
    Tensor x = given(count, type), y(count, type);
    dropout(x.data(), y.data(), count, 0.4, 12345, kThreads, type);
    y.show("y");
}

const std::vector<int64_t> kCounts{37, 0, 48};

void penalties() {
    Tensor w = given(37), v = given(48), dw = given(37), dv = given(48);
    const float* weights[] = {w.floats(), nullptr, v.floats()};
    float* gradients[] = {dw.floats(), nullptr, dv.floats()};
    double absolute = 0, squares = 0;
    penalty({weights, gradients, kCounts.data(), 3, 0.2, 0.3, &absolute, &squares, kThreads});
    dw.show("dw"), dv.show("dv"), show("sums", {absolute, squares});
}

void steps(Rule rule, int slots, double momentum, double centered) {
    Tensor w = given(37), v = given(48), dw = given(37), dv = given(48);
    dv.wide[5] = 0x7f800000, dv.wide[47] = 0x7fc00000;  // not finite: left as they were
    std::vector<Tensor> first, last;
    for (int s = 0; s < 3; s++) first.push_back(given(37, Type::float32, true)), last.push_back(given(48, Type::float32, true));
    float* weights[] = {w.floats(), nullptr, v.floats()};
    const float* gradients[] = {dw.floats(), nullptr, dv.floats()};
    float* states[3][3];
    OptimizerStep a{};
    for (int s = 0; s < 3; s++) {
        states[s][0] = first[s].floats(), states[s][1] = nullptr, states[s][2] = last[s].floats();
        a.states[s] = states[s];
    }
    // the mean square is above the square of the mean, as it always is
    if (centered) first[1] = Tensor(given(37)), states[1][0] = first[1].floats();
    int64_t masked = 0;
    a.rule = rule, a.weights = weights, a.gradients = gradients, a.slots = slots, a.counts = kCounts.data(), a.tensors = 3;
    a.coupled = 0.1, a.shrink = 0.99, a.rate = 0.1, a.momentum = momentum, a.gain = 1, a.look = momentum ? 0.5 : 0, a.alpha = 0.9;
    a.rho = 0.9, a.rho_steps = 0.8, a.beta1 = 0.9, a.beta2 = 0.99, a.eps = 1e-3, a.centered = centered;
    a.masked = &masked, a.threads = kThreads;
    optimizer_step(a);
    w.show("w"), v.show("v"), show("masked", {double(masked)});
    for (int s = 0; s < slots; s++) first[s].show("state"), last[s].show("state");
}

int main() {
    for (Type type : {Type::float32, Type::bfloat16}) {
        const std::string of = type == Type::float32 ? " float32" : " bfloat16";
        for (int activation = 0; activation < 5; activation++) {
            const After after{static_cast<Activation>(activation), nullptr, activation % 2 ? 0.3 : 0.0, 99};
            what = "channel_norm" + of;
            channel_norms(type, 3, 19, 35, after, true), channel_norms(type, 3, 19, 35, after, false);
            channel_norms(type, 40, 33, 1, after, true), channel_norms(type, 30, 16, 1, after, false);
            what = "row_norm" + of;
            row_norms(type, 7, 33, after, true, false), row_norms(type, 7, 33, after, false, false);
            what = "group_norm" + of;
            group_norms(type, 3, 16, 15, 2, after, false), group_norms(type, 3, 16, 15, 2, after, true);
        }
        what = "row_norm" + of;
        row_norms(type, 9, 1600, {}, true, true), row_norms(type, 2, 4100, {}, false, true);
        what = "response_norm" + of;
        response_norms(type, 2, 9, 9, 5, 0.75), response_norms(type, 2, 9, 45, 4, 0.5), response_norms(type, 2, 9, 7, 3, 0.3);
        what = "cross_entropy" + of;
        cross_entropies(type, 5, 53, 0, false), cross_entropies(type, 5, 53, 0.1, true);
        what = "dropout" + of;
        dropouts(type, 231);

        what = "nothing" + of;  // to do; the processor faults where a kernel divides by it
        for (int64_t none = 0; none < 3; none++) {
            const int64_t a = none != 0, b = none != 1, c = none != 2;
            channel_norms(type, 3 * a, 4 * b, 5 * c, {}, true), channel_norms(type, 3 * a, 4 * b, 1, {}, true);
            row_norms(type, 3 * a, 4 * b, {}, true, true), row_norms(type, 3 * a, 4 * b, {}, true, false);
            group_norms(type, 3 * a, 4 * b, 5 * c, 2, {}, false), group_norms(type, 3 * a, 4 * b, 5 * c, 2, {}, true);
            response_norms(type, 3 * a, 4 * b, 5 * c, 3, 0.75);
            cross_entropies(type, 3 * a, 4 * b, 0.1, true);
            dropouts(type, 0);
        }
    }
    what = "penalty float32";
    penalties();
    what = "optimizer_step float32";
    steps(Rule::sgd, 0, 0, 0), steps(Rule::sgd, 1, 0.9, 0), steps(Rule::adagrad, 1, 0, 0), steps(Rule::adadelta, 2, 0, 0);
    steps(Rule::rmsprop, 1, 0, 0), steps(Rule::rmsprop, 3, 0.9, 1), steps(Rule::adam, 2, 0, 0), steps(Rule::adam, 3, 0, 0);
}
