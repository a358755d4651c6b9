// trimtab._cpu: what Python sees of the compiled part. Tensors cross this border as integers (`data_ptr()`, 0 for none),
// checked on the Python side: no torch header is included, so one binary serves every version of torch.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#include "table.h"

namespace nb = nanobind;
using namespace nb::literals;

// The objects in this build, best first: TRIMTAB_SETS is a list such as X(avx512) X(avx2) X(baseline), made by CMake.
#define X(set) namespace trimtab::set { extern const Table table; }
TRIMTAB_SETS
#undef X

namespace trimtab {

void ask_for_large_pages(void* p, int64_t bytes) {
#ifdef __linux__
    constexpr int64_t kPage = 4096, kWorthIt = 4 << 20;
    if (bytes < kWorthIt) return;
    const auto begin = (reinterpret_cast<uintptr_t>(p) + kPage - 1) / kPage * kPage;
    const auto end = (reinterpret_cast<uintptr_t>(p) + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)p, (void)bytes;
#endif
}

const std::vector<const Table*>& tables() {
#define X(set) &set::table,
    static const std::vector<const Table*> all{TRIMTAB_SETS};
#undef X
    return all;
}

// The first table whose set this machine runs; TRIMTAB_CPU=avx2 (say) asks for a lesser one.
const Table& kernels() {
    static const Table& chosen = []() -> const Table& {
        const char* asked = std::getenv("TRIMTAB_CPU");
        for (const Table* table : tables())
            if (can_run(table->set) && (!asked || !*asked || std::strcmp(asked, name(table->set)) == 0)) return *table;
        return *tables().back();
    }();
    return chosen;
}

template <class P> P at(uintptr_t address) { return reinterpret_cast<P>(address); }

After after(int activation, uintptr_t residual, double dropout_p, uint64_t seed) {
    return {static_cast<Activation>(activation), at<const void*>(residual), dropout_p, seed};
}

Type type_of(bool bfloat16) { return bfloat16 ? Type::bfloat16 : Type::float32; }

Rule rule_of(const std::string& name) {
    static const std::map<std::string, Rule> rules{{"sgd", Rule::sgd}, {"adagrad", Rule::adagrad}, {"adadelta", Rule::adadelta},
                                                   {"rmsprop", Rule::rmsprop}, {"adam", Rule::adam}};
    return rules.at(name);
}

void set_number(OptimizerStep& a, const std::string& name, double value) {
    using Number = double OptimizerStep::*;
    static const std::map<std::string, Number> numbers{
        {"sign", &OptimizerStep::sign},     {"coupled", &OptimizerStep::coupled},     {"shrink", &OptimizerStep::shrink},
        {"rate", &OptimizerStep::rate},     {"momentum", &OptimizerStep::momentum},   {"gain", &OptimizerStep::gain},
        {"look", &OptimizerStep::look},     {"alpha", &OptimizerStep::alpha},         {"rho", &OptimizerStep::rho},
        {"beta1", &OptimizerStep::beta1},   {"rho_steps", &OptimizerStep::rho_steps}, {"beta2", &OptimizerStep::beta2},
        {"eps", &OptimizerStep::eps},       {"scale", &OptimizerStep::scale},         {"inside", &OptimizerStep::inside},
        {"centered", &OptimizerStep::centered}};
    a.*numbers.at(name) = value;
}

using Numbers = std::map<std::string, double>;
using Addresses = std::vector<uintptr_t>;

// The names in a list of parameters such as "(uintptr_t x, int64_t rows)": the last word of each.
std::vector<std::string> names_in(const std::string& parameters) {
    std::vector<std::string> names(1);
    for (const char c : parameters) {
        if (c == ',') names.emplace_back();
        else if (std::isalnum(c) || c == '_') names.back() += c;
        else if (c != ')') names.back().clear();
    }
    return names;
}

template <class F, class R, class... A> constexpr size_t count(R (F::*)(A...) const) { return sizeof...(A); }

template <class F, class R, class... A, size_t... I>
void define(nb::module_& m, const char* name, const std::vector<std::string>& names, F f, R (F::*)(A...) const,
            std::index_sequence<I...>) {
    if (names.size() != sizeof...(A)) throw std::logic_error(name);
    m.def(name, f, nb::kw_only(), nb::arg(names[I].c_str())..., nb::call_guard<nb::gil_scoped_release>());
}

// A kernel as Python calls it, every argument by its name. The list of parameters is the only one there is: the names are read from it.
template <class F> void define(nb::module_& m, const char* name, const char* parameters, F f) {
    define(m, name, names_in(parameters), f, &F::operator(), std::make_index_sequence<count(&F::operator())>());
}
#define KERNEL(name, parameters, ...) define(m, #name, #parameters, [] parameters __VA_ARGS__)

}  // namespace trimtab

NB_MODULE(_cpu, m) {
    using namespace trimtab;
    m.doc() = "The compiled part of trimtab: CPU kernels, and which of them this machine runs.";

    m.def("instruction_set", [] { return name(kernels().set); }, "The instruction set whose kernels run in this process.");

    m.def("compiled_for", [] {
              nb::list sets;
              for (const Table* table : tables()) sets.append(name(table->set));
              return sets;
          },
          "The instruction sets that this build carries kernels for, best first.");

    m.def("openmp_threads", []() -> std::optional<int> {
#ifdef _OPENMP
              return omp_get_max_threads();  // OpenMP keeps this number per calling thread
#else
              return std::nullopt;
#endif
          },
          "The number of threads an OpenMP loop started by the calling thread would use; None in a build without OpenMP.");

    KERNEL(channel_norm_forward, (uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t y, uintptr_t mean, uintptr_t rstd,
                                  uintptr_t variance, int64_t samples, int64_t channels, int64_t plane, double eps,
                                  bool batch_statistics, int activation, uintptr_t residual, double dropout_p, uint64_t seed,
                                  bool bfloat16, int threads), {
        ChannelNorm a{};
        a.x = at<void*>(x), a.weight = at<float*>(weight), a.bias = at<float*>(bias), a.y = at<void*>(y);
        a.mean = at<double*>(mean), a.rstd = at<double*>(rstd), a.variance = at<double*>(variance);
        a.samples = samples, a.channels = channels, a.plane = plane, a.eps = eps;
        a.batch_statistics = batch_statistics, a.threads = threads;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().channel_norm_forward(a, type_of(bfloat16));
    });

    KERNEL(channel_norm_backward, (uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t mean, uintptr_t rstd,
                                   uintptr_t dy, uintptr_t dx, uintptr_t dresidual, uintptr_t dweight, uintptr_t dbias,
                                   int64_t samples, int64_t channels, int64_t plane, bool batch_statistics, int activation,
                                   uintptr_t residual, double dropout_p, uint64_t seed, bool bfloat16, int threads), {
        ChannelNorm a{};
        a.x = at<void*>(x), a.weight = at<float*>(weight), a.bias = at<float*>(bias);
        a.mean = at<double*>(mean), a.rstd = at<double*>(rstd), a.dy = at<void*>(dy), a.dx = at<void*>(dx);
        a.dresidual = at<void*>(dresidual), a.dweight = at<float*>(dweight), a.dbias = at<float*>(dbias);
        a.samples = samples, a.channels = channels, a.plane = plane;
        a.batch_statistics = batch_statistics, a.threads = threads;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().channel_norm_backward(a, type_of(bfloat16));
    });

    KERNEL(row_norm_forward, (uintptr_t x, uintptr_t before, double before_p, uint64_t before_seed, uintptr_t weight,
                              uintptr_t bias, uintptr_t y, uintptr_t h, uintptr_t mean, uintptr_t rstd, int64_t rows,
                              int64_t columns, double eps, bool centered, int activation, uintptr_t residual,
                              double dropout_p, uint64_t seed, bool bfloat16, int threads), {
        RowNorm a{};
        a.x = at<void*>(x), a.residual = at<void*>(before), a.dropout_p = before_p, a.seed = before_seed;
        a.weight = at<float*>(weight), a.bias = at<float*>(bias), a.y = at<void*>(y), a.h = at<void*>(h);
        a.mean = at<float*>(mean), a.rstd = at<float*>(rstd), a.rows = rows, a.columns = columns, a.eps = eps;
        a.centered = centered, a.threads = threads;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().row_norm_forward(a, type_of(bfloat16));
    });

    KERNEL(row_norm_backward, (uintptr_t x, uintptr_t before, double before_p, uint64_t before_seed, bool h_given,
                               uintptr_t weight, uintptr_t bias, uintptr_t mean, uintptr_t rstd, uintptr_t dy, uintptr_t dh,
                               uintptr_t dx, uintptr_t dbefore, uintptr_t dafter, uintptr_t dweight, uintptr_t dbias,
                               int64_t rows, int64_t columns, bool centered, int activation, uintptr_t residual,
                               double dropout_p, uint64_t seed, bool bfloat16, int threads), {
        RowNorm a{};
        a.x = at<void*>(x), a.residual = at<void*>(before), a.dropout_p = before_p, a.seed = before_seed;
        a.weight = at<float*>(weight), a.bias = at<float*>(bias), a.mean = at<float*>(mean), a.rstd = at<float*>(rstd);
        a.dy = at<void*>(dy), a.dh = at<void*>(dh), a.dx = at<void*>(dx), a.dresidual = at<void*>(dbefore);
        a.dafter = at<void*>(dafter), a.dweight = at<float*>(dweight), a.dbias = at<float*>(dbias);
        a.rows = rows, a.columns = columns, a.centered = centered, a.threads = threads, a.h_given = h_given;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().row_norm_backward(a, type_of(bfloat16));
    });

    KERNEL(group_norm_forward, (uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t y, uintptr_t mean, uintptr_t rstd,
                                int64_t samples, int64_t channels, int64_t plane, int64_t groups, bool channels_last,
                                double eps, int activation, uintptr_t residual, double dropout_p, uint64_t seed,
                                bool bfloat16, int threads), {
        GroupNorm a{};
        a.x = at<void*>(x), a.weight = at<float*>(weight), a.bias = at<float*>(bias), a.y = at<void*>(y);
        a.mean = at<float*>(mean), a.rstd = at<float*>(rstd);
        a.samples = samples, a.channels = channels, a.plane = plane, a.groups = groups, a.channels_last = channels_last;
        a.eps = eps, a.threads = threads;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().group_norm_forward(a, type_of(bfloat16));
    });

    KERNEL(group_norm_backward, (uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t mean, uintptr_t rstd, uintptr_t dy,
                                 uintptr_t dx, uintptr_t dresidual, uintptr_t dweight, uintptr_t dbias, int64_t samples,
                                 int64_t channels, int64_t plane, int64_t groups, bool channels_last, int activation,
                                 uintptr_t residual, double dropout_p, uint64_t seed, bool bfloat16, int threads), {
        GroupNorm a{};
        a.x = at<void*>(x), a.weight = at<float*>(weight), a.bias = at<float*>(bias);
        a.mean = at<float*>(mean), a.rstd = at<float*>(rstd), a.dy = at<void*>(dy), a.dx = at<void*>(dx);
        a.dresidual = at<void*>(dresidual), a.dweight = at<float*>(dweight), a.dbias = at<float*>(dbias);
        a.samples = samples, a.channels = channels, a.plane = plane, a.groups = groups, a.channels_last = channels_last;
        a.threads = threads;
        a.after = after(activation, residual, dropout_p, seed);
        kernels().group_norm_backward(a, type_of(bfloat16));
    });

    KERNEL(response_norm_forward, (uintptr_t x, uintptr_t y, int64_t samples, int64_t channels, int64_t plane, int64_t size,
                                   double alpha, double beta, double k, bool bfloat16, int threads), {
        kernels().response_norm_forward(
            {at<void*>(x), at<void*>(y), samples, channels, plane, size, alpha, beta, k, threads, nullptr, nullptr},
            type_of(bfloat16));
    });

    KERNEL(response_norm_backward, (uintptr_t x, uintptr_t dy, uintptr_t dx, int64_t samples, int64_t channels,
                                    int64_t plane, int64_t size, double alpha, double beta, double k, bool bfloat16,
                                    int threads), {
        kernels().response_norm_backward(
            {at<void*>(x), nullptr, samples, channels, plane, size, alpha, beta, k, threads, at<void*>(dy), at<void*>(dx)},
            type_of(bfloat16));
    });

    KERNEL(cross_entropy_forward, (uintptr_t x, uintptr_t target, uintptr_t weight, uintptr_t loss, uintptr_t lse,
                                   int64_t rows, int64_t classes, int64_t ignore, double smoothing, bool bfloat16,
                                   int threads), {
        kernels().cross_entropy_forward({at<void*>(x), at<int64_t*>(target), at<float*>(weight), at<float*>(loss),
                                         at<float*>(lse), rows, classes, ignore, smoothing, threads, nullptr, nullptr},
                                        type_of(bfloat16));
    });

    KERNEL(cross_entropy_backward, (uintptr_t x, uintptr_t target, uintptr_t weight, uintptr_t lse, uintptr_t dloss,
                                    uintptr_t dx, int64_t rows, int64_t classes, int64_t ignore, double smoothing,
                                    bool bfloat16, int threads), {
        kernels().cross_entropy_backward({at<void*>(x), at<int64_t*>(target), at<float*>(weight), nullptr, at<float*>(lse),
                                          rows, classes, ignore, smoothing, threads, at<float*>(dloss), at<void*>(dx)},
                                         type_of(bfloat16));
    });

    // Adds l1 sign(w) + l2 w to the gradients; gives sum |w| and sum w^2.
    KERNEL(penalty, (const Addresses& weights, const Addresses& gradients,
                     const std::vector<int64_t>& counts, double l1, double l2, int threads), {
        double absolute = 0, squares = 0;
        kernels().penalty({reinterpret_cast<const float* const*>(weights.data()),
                           reinterpret_cast<float* const*>(gradients.data()), counts.data(), int64_t(counts.size()), l1, l2,
                           &absolute, &squares, threads});
        return std::make_pair(absolute, squares);
    });

    // Moves weights and state by one step; gives the number of entries whose gradient is not finite.
    KERNEL(optimizer_step, (const std::string& rule, const Addresses& weights, const Addresses& gradients,
                            const std::vector<Addresses>& states, const std::vector<int64_t>& counts, const Numbers& numbers,
                            int threads), {
        OptimizerStep a{};
        a.rule = rule_of(rule);
        a.slots = int(states.size());
        if (a.slots > 3) throw std::invalid_argument("optimizer_step: up to 3 states");
        a.weights = reinterpret_cast<float* const*>(weights.data());
        a.gradients = reinterpret_cast<const float* const*>(gradients.data());
        for (int s = 0; s < a.slots; s++) a.states[s] = reinterpret_cast<float* const*>(states[s].data());
        a.counts = counts.data();
        a.tensors = int64_t(counts.size());
        for (const auto& [name, value] : numbers) set_number(a, name, value);
        int64_t masked = 0;
        a.masked = &masked;
        a.threads = threads;
        kernels().optimizer_step(a);
        return masked;
    });

    KERNEL(dropout, (uintptr_t x, uintptr_t y, int64_t count, double p, uint64_t seed, bool bfloat16, int threads), {
        kernels().dropout(at<void*>(x), at<void*>(y), count, p, seed, threads, type_of(bfloat16));
    });
}
